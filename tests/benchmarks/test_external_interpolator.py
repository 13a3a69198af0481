"""An interpolator that is any command: what it reads, what it must write, and what is said of a bad one."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from external_interpolator import external_interpolator, write_lossless
from interpolation import comparison, main
from interpolation_methods import frame_average, interpolate_by_all
from tiny_media import make_video, tiny_regen
from torch import Tensor

from regen.codec.timeline import Timeline
from regen.media.reader import VideoReader

AVERAGE = """
import sys
import av
import numpy as np
source, target, factor = *sys.argv[1:3], int(sys.argv[3])
with av.open(source) as container:
    frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
np.save(sys.argv[4], frames)
made = []
for first, second in zip(frames, frames[1:]):
    parts = np.arange(factor) / factor
    made += [(first + (second.astype(np.float32) - first) * part).round().astype(np.uint8) for part in parts]
made += [frames[-1]]
made = made[: len(made) + int(sys.argv[5])] if len(sys.argv) > 5 else made
with av.open(target, "w") as container:
    stream = container.add_stream("ffv1", rate=48)
    stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "bgr0"
    for image in made:
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="bgr0")))
    container.mux(stream.encode())
"""


@pytest.fixture
def command(tmp_path: Path) -> str:
    """A program that averages, and keeps the frames that it was given in seen.npy."""
    (tmp_path / "average.py").write_text(AVERAGE)
    return f"{sys.executable} '{tmp_path}/average.py' {{in}} {{out}} {{factor}} '{tmp_path}/seen.npy'"


def video(frames: int, height: int = 17, width: int = 23) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (frames, height, width, 3), generator=generator, dtype=torch.uint8)


def test_files_are_lossless(tmp_path: Path) -> None:
    frames = video(3)
    write_lossless(tmp_path / "a.mkv", frames)
    with VideoReader(tmp_path / "a.mkv") as reader:
        assert torch.equal(torch.stack([frame.image for frame in reader]), frames)


@pytest.mark.parametrize("factor", [2, 3])
def test_a_command_gets_the_frames_and_gives_those_between(command: str, tmp_path: Path, factor: int) -> None:
    frames = video(4)
    made = external_interpolator(command)(frames, factor)
    assert torch.equal(made, frame_average(frames, factor))
    seen = torch.from_numpy(np.load(tmp_path / "seen.npy"))
    assert torch.equal(seen, torch.cat([frames, frames[-1:]])), "the last one twice"
    assert torch.equal(external_interpolator(command)(frames[:1], factor), frames[:1])


def test_it_gets_reconstructions_and_originals(command: str) -> None:
    """The third row of Figure 13 is the external interpolator on reconstructed frames."""

    def codec(frames: Tensor, timeline: Timeline) -> Tensor:
        repeated = frames if timeline == Timeline() else frames.repeat_interleave(2, dim=0)
        return (repeated // 2).contiguous()

    frames, external = video(5), external_interpolator(command)
    made = interpolate_by_all(codec, frames, 2, external, "external interpolator")
    assert torch.equal(made.methods["external interpolator"], frame_average(frames[::2] // 2, 2))
    assert torch.equal(made.methods["external interpolator originals"], frame_average(frames[::2], 2))
    picture = comparison(made, 2, columns=2)
    names = ["original", "model", "average", "external interpolator"]
    strip = (picture.shape[0] - len(names) * 17) // len(names)
    assert picture.shape == (len(names) * (17 + strip), 2 * 23, 3)
    last = picture[-17:]
    assert torch.equal(last, torch.cat([*made.methods["external interpolator"][[1, 3]]], dim=1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cmd {in}", r"must have \{out\}"),
        ("cmd", r"must have \{in\} and \{out\}"),
        ("cmd '{in} {out}", "must be a command"),
    ],
)
def test_a_command_needs_both_files(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        external_interpolator(text)


def test_a_command_that_fails_gives_one_sentence(command: str) -> None:
    python = sys.executable
    for text, words in (
        ("no-such-program {in} {out}", "no-such-program can't be run: No such file"),
        (
            f"{python} -c \"import sys; sys.exit('out of memory')\" {{in}} {{out}}",
            r"failed \(1\): out of memory",
        ),
        (f"{python} -c pass {{in}} {{out}}", "wrote no video to {out}: There is no file"),
        (f"{command} -5", r"must make 7 frames of 23x17 or up to 3 more, got 4 of 23x17"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            external_interpolator(text)(video(4), 2)
        assert "\n" not in str(caught.value)


def test_the_benchmark_takes_a_command(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_regen().save_pretrained(tmp_path / "regen")
    (tmp_path / "clips").mkdir()
    make_video(tmp_path / "clips" / "a.mp4", frames=5, height=32, width=32)
    main(
        (tmp_path / "clips",), str(tmp_path / "regen"), (2,), "32", dtype="fp32", interpolator=command,
        picture=tmp_path / "rows.png",
    )  # fmt: skip
    out = capsys.readouterr().out
    result = json.loads(out.splitlines()[-1])
    assert result["interpolator"] == command and "external interpolator" in out
    left_out = result["factors"][0]["left_out"]
    assert left_out["external interpolator originals"] == left_out["average of originals"]
    with VideoReader(tmp_path / "rows.png") as reader:
        assert reader.info.width == 2 * 32
