"""Whole files: length, size, times and sound come back, figures are right, and latents decode to the same."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from interpolation_methods import codec_of
from tiny_media import EMBEDDERS, make_image, make_video, picture, record_frames
from torch import Tensor

from regen.codec import transcode as module
from regen.codec.latent_file import LatentVideo
from regen.codec.rate_control import Budget
from regen.codec.sessions import DecodeOptions, decode_chunks, encode_frames
from regen.codec.timeline import Timeline
from regen.codec.transcode import LABEL_HEIGHT, Report, decode_video, encode_video, reconstruct_video
from regen.latents import Latents
from regen.media.pixels import Size
from regen.media.reader import VideoReader
from regen.metrics.psnr_ssim import psnr_per_frame, ssim_per_frame
from regen.pretrained.models import Autoencoder

PER_EMBEDDER = pytest.mark.parametrize("model", EMBEDDERS, indirect=True)
ONE_DVA = pytest.mark.parametrize("model", ["onedva"], indirect=True)
WITH_ONE_DVA = pytest.mark.parametrize("model", ["regen", "onedva"], indirect=True)


@pytest.fixture(scope="module", params=["regen"])
def model(request: pytest.FixtureRequest) -> Autoencoder:
    torch.manual_seed(0)
    return EMBEDDERS[request.param]()


def read(path: Path) -> tuple[Tensor, list[float]]:
    with VideoReader(path) as reader:
        frames = list(reader)
    return torch.stack([frame.image for frame in frames]), [frame.time for frame in frames]


def reconstruct(model: Autoencoder, source: Path, output: Path, **options: object) -> Report:
    return reconstruct_video(model, source, output, name="tiny", **options)


def encode(model: Autoencoder, source: Path, size: Size | None = None) -> tuple[LatentVideo, Report]:
    return encode_video(model, source, name="tiny", weights="abc", size=size)


@PER_EMBEDDER
@pytest.mark.parametrize(("frames", "height", "width"), [(1, 16, 24), (3, 24, 40), (7, 21, 35), (11, 24, 24)])
def test_length_size_rate_and_sound_come_back(
    tmp_path: Path, model: Autoencoder, frames: int, height: int, width: int
) -> None:
    source = make_video(tmp_path / "in.mp4", frames, height, width, sound="aac")
    report = reconstruct(model, source, tmp_path / "out.mp4", compare=tmp_path / "both.mp4")
    with VideoReader(source) as before, VideoReader(tmp_path / "out.mp4") as after:
        assert replace(after.info, duration=None) == replace(before.info, duration=None)
        assert after.info.has_audio
    with VideoReader(tmp_path / "both.mp4") as both:
        assert both.info.has_audio and both.info.height == 2 * height + 2 * LABEL_HEIGHT
        assert len(list(both)) == frames
    assert read(tmp_path / "out.mp4")[0].shape == (frames, height, width, 3)
    assert (report.frames, report.height, report.width) == (frames, height, width)
    assert report.fps == pytest.approx(30000 / 1001)


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.size]


def test_variable_rate_and_sound_are_kept_and_progress_counts_frames(
    tmp_path: Path, model: Autoencoder
) -> None:
    times, seen = [0, 0.04, 0.2, 0.21, 0.5, 0.9], []
    source = make_video(tmp_path / "in.mp4", 6, rate=Fraction(25), times=times, sound="aac")
    reconstruct(model, source, tmp_path / "one.mp4", on_progress=lambda *done: seen.append(done))
    video, _ = encode(model, source)
    decode_video(model, video, tmp_path / "two.mp4", on_progress=lambda *done: seen.append(done))
    assert seen == [(5, 6), (6, 6)] * 2
    for path in (tmp_path / "one.mp4", tmp_path / "two.mp4"):
        assert read(path)[1] == pytest.approx(times, abs=1e-3)
        assert packets(path) == packets(source)


@WITH_ONE_DVA
def test_report_tells_what_happened(tmp_path: Path, model: Autoencoder) -> None:
    source = make_video(tmp_path / "in.mp4", 7, 24, 40)
    report = reconstruct(model, source, tmp_path / "out.mp4")
    frames, _ = read(source)
    chunks = list(encode_frames(model, frames))
    decoded = torch.stack(list(decode_chunks(model, chunks, height=24, width=40)))
    side = model.spatial_compression_ratio
    assert report.latent_shape == [2, 4, 2, -(-24 // side), -(-40 // side)]
    values = sum(chunk.latents.numel() for chunk in chunks)
    assert report.compression == pytest.approx((7 * 24 * 40 * 3) / values)
    assert report.values_per_second == pytest.approx(values * 30000 / 1001 / 7)
    if side == 8:
        assert values == 2 * 4 * 2 * 3 * 5 and report.lengths is None
    else:
        assert report.lengths == [chunk.latents.length for chunk in chunks]
        assert values == 4 * (2 * 2 * 2 * 3 + sum(report.lengths)) and 0 < sum(report.lengths) < 24
    assert report.psnr == pytest.approx(psnr_per_frame(frames, decoded).mean().item())
    assert report.ssim == pytest.approx(ssim_per_frame(frames, decoded).mean().item(), abs=1e-6)
    assert report.encode_seconds > 0 and report.decode_seconds > 0
    assert 50 < report.peak_memory_mb < 100_000


@ONE_DVA
def test_a_budget_is_shared_out_before_the_frames_are_encoded(tmp_path: Path, model: Autoencoder) -> None:
    """For the frames as they are coded: of the size that is asked for."""
    source = make_video(tmp_path / "in.mp4", 12, 40, 64)
    budget, size = Budget(500.0), Size(28, 44)
    report = reconstruct(model, source, tmp_path / "out.mp4", size=size, lengths=budget)
    assert 500 - 4 * 30 / 12 < report.values_per_second <= 500
    video, encoded = encode_video(model, source, name="tiny", weights="abc", size=size, lengths=budget)
    decoded = decode_video(model, video, tmp_path / "two.mp4")
    assert report.lengths == encoded.lengths == decoded.lengths
    assert report.values_per_second == encoded.values_per_second == decoded.values_per_second


@WITH_ONE_DVA
@pytest.mark.parametrize("size", [None, Size(19, 33)])
@pytest.mark.parametrize("name", ["in.mp4", "in.png"])
def test_encoding_and_decoding_is_reconstructing(
    tmp_path: Path, model: Autoencoder, size: Size | None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = record_frames(monkeypatch)
    source = tmp_path / name
    make_image(source) if source.suffix == ".png" else make_video(source, sound="aac")
    one, two = (tmp_path / f"{stem}{source.suffix}" for stem in ("one", "two"))
    options = DecodeOptions(steps=2, seed=3)
    report = reconstruct(model, source, one, size=size, options=options)
    video, encoded = encode(model, source, size)
    decoded = decode_video(model, video, two, options=options)
    assert (video.source_height, video.source_width) == ((20, 28) if name == "in.png" else (24, 40))
    assert (video.height, video.width) == (report.height, report.width)
    assert (video.model, video.weights) == ("tiny", "abc")
    assert len(written) == 2 and torch.equal(torch.stack(written[0]), torch.stack(written[1]))
    assert (encoded.latent_shape, encoded.compression) == (report.latent_shape, report.compression)
    assert encoded.encode_seconds > 0 and encoded.decode_seconds is None and encoded.psnr is None
    assert decoded.decode_seconds > 0 and decoded.encode_seconds is None
    assert (decoded.frames, decoded.width, decoded.height) == (report.frames, report.width, report.height)


def test_comparison_has_the_original_above(tmp_path: Path, model: Autoencoder) -> None:
    source = make_image(tmp_path / "in.png", 20, 28)
    reconstruct(model, source, tmp_path / "out.png", compare=tmp_path / "both.png")
    (both,), (out,) = read(tmp_path / "both.png")[0], read(tmp_path / "out.png")[0]
    assert both.shape == (2 * 20 + 2 * LABEL_HEIGHT, 28, 3)
    assert np.array_equal(both[LABEL_HEIGHT : LABEL_HEIGHT + 20], picture(0, 20, 28))
    assert torch.equal(both[-20:], out)


def test_damage_is_passed_on(tmp_path: Path, model: Autoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    source, warnings = make_video(tmp_path / "in.mp4"), []
    monkeypatch.setattr(
        VideoReader, "damage", property(lambda self: "much", lambda self, value: None), raising=False
    )
    reconstruct(model, source, tmp_path / "out.mp4", on_warning=warnings.append)
    encode_video(model, source, name="tiny", weights="abc", on_warning=warnings.append)
    assert warnings == [f"{source}: much."] * 2


def test_interruption_leaves_nothing(tmp_path: Path, model: Autoencoder) -> None:
    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    source = make_video(tmp_path / "in.mp4")
    with pytest.raises(KeyboardInterrupt):
        reconstruct(model, source, tmp_path / "out.mp4", compare=tmp_path / "both.mp4", on_progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_input_and_outputs_must_be_different_files(tmp_path: Path, model: Autoencoder) -> None:
    source = make_video(tmp_path / "in.mp4", 1)
    for output, compare in (("in.mp4", None), ("out.mp4", "out.mp4"), ("out.mp4", "in.mp4")):
        with pytest.raises(ValueError, match="must be different files"):
            reconstruct(model, source, tmp_path / output, compare=compare and tmp_path / compare)


@WITH_ONE_DVA
@pytest.mark.parametrize(
    ("options", "timeline"),
    [
        (DecodeOptions(batch=3), Timeline(interpolate=3)),
        (
            DecodeOptions(seams="match"),
            Timeline(interpolate=2, extrapolate_before=1, extrapolate_after=2, every_chunk=True),
        ),
    ],
)
def test_frames_between_are_written_as_they_are_measured(
    tmp_path: Path,
    model: Autoencoder,
    options: DecodeOptions,
    timeline: Timeline,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, seen = make_video(tmp_path / "in.mp4", 17, 16, 24), []
    video, _ = encode(model, source)
    written = record_frames(monkeypatch)
    settings = {"timeline": timeline, "options": options}
    decode_video(model, video, tmp_path / "out.mp4", on_progress=lambda *done: seen.append(done), **settings)
    measured = codec_of(model, options)(read(source)[0], timeline)
    assert torch.equal(torch.stack(written[0]), measured)
    assert seen[-1] == (len(measured), len(measured))


@WITH_ONE_DVA
@pytest.mark.parametrize("timeline", [Timeline(), Timeline(interpolate=2), Timeline(fps=Fraction(7))])
@pytest.mark.parametrize(
    "options", [DecodeOptions(batch=2, seams="none"), DecodeOptions(seams="match"), DecodeOptions(steps=2)]
)
def test_the_tile_is_chosen_for_all_frames_that_are_decoded_together(
    tmp_path: Path,
    model: Autoencoder,
    options: DecodeOptions,
    timeline: Timeline,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    video, _ = encode(model, make_video(tmp_path / "in.mp4", 17, 16, 24))
    planned, together, decode = [], [], model.decode

    def plan(model: Autoencoder, frames: int, *rest: object) -> None:
        planned.append(frames)

    def recorded(latents: Tensor | Latents, times: Tensor, **rest: object) -> object:
        together.append((len(latents), len(times)))
        return decode(latents, times, **rest)

    monkeypatch.setattr(module, "largest_tile", plan)
    monkeypatch.setattr(model, "decode", recorded)
    decode_video(model, video, tmp_path / "out.mp4", options=options)
    decode_video(model, video, tmp_path / "out.mp4", timeline=timeline, options=options)
    assert max(chunks * frames for chunks, frames in together) <= planned[0]
    assert planned[0] == planned[1], "encoded frames have the same tiles with every timeline"
