"""The sound of a video, carried over by the writer."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from movies import damage, make_movie, make_sound, numbered

from regen.data.video import VideoError, VideoReader, VideoWriter


def copy(source: Path, path: Path, sound: Path | None = None) -> Path:
    """Read all frames of `source` and write them again, with its sound or that of `sound`."""
    with VideoReader(source) as reader:
        info = reader.info
        with VideoWriter(path, info.width, info.height, info.frame_rate, sound or source) as writer:
            for frame in reader:
                writer.write(frame.image, frame.time)
    return path


def packets(path: Path) -> list[bytes]:
    header = 7 if path.suffix == ".ts" else 0  # a transport stream heads each packet of AAC
    with av.open(str(path)) as container:
        return [bytes(packet)[header:] for packet in container.demux(audio=0) if packet.size]


def heard(path: Path) -> tuple[str, float, float]:
    """Codec, seconds of sound, and when it starts after the first frame."""
    with av.open(str(path)) as container:
        video = next(container.decode(video=0)).time
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        rate = container.streams.audio[0].rate
        name = container.streams.audio[0].codec_context.name
        return name, sum(frame.samples for frame in frames) / rate, frames[0].time - video


@pytest.mark.parametrize("source", ["a.mp4", "a.ts", "a.mkv"])
@pytest.mark.parametrize("target", ["b.mp4", "b.mov", "b.mkv"])
def test_packets_are_copied_in_time(tmp_path: Path, source: str, target: str) -> None:
    first = make_movie(tmp_path / source, numbered(20), audio="aac", options={"bf": "2"})
    second = copy(first, tmp_path / target)
    assert packets(second) == packets(first)
    assert heard(second)[1] == pytest.approx(heard(first)[1], abs=0.05)
    assert heard(second)[2] == pytest.approx(heard(first)[2], abs=0.03)


def test_sound_that_the_container_does_not_take_becomes_aac(tmp_path: Path) -> None:
    source = make_movie(tmp_path / "a.avi", numbered(20), audio="pcm_s16le")
    assert heard(copy(source, tmp_path / "b.mp4"))[0] == "aac"
    assert heard(copy(source, tmp_path / "b.mkv"))[0] == "pcm_s16le"
    assert heard(tmp_path / "b.mp4")[1] == pytest.approx(0.8, abs=0.05)


def test_the_tone_survives(tmp_path: Path) -> None:
    source = make_movie(tmp_path / "a.avi", numbered(25), audio="pcm_s16le")
    with av.open(str(copy(source, tmp_path / "b.mp4"))) as container:
        wave = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    spectrum = np.abs(np.fft.rfft(wave))
    assert spectrum.argmax() * 44100 / len(wave) == pytest.approx(440, abs=3)


def test_without_sound_there_is_none(tmp_path: Path) -> None:
    path = copy(make_movie(tmp_path / "a.mp4", numbered(3)), tmp_path / "b.mp4")
    with VideoReader(path) as reader:
        assert not reader.info.has_audio
    with VideoWriter(tmp_path / "c.mp4", 64, 48, Fraction(25), tmp_path / "picture.png") as writer:
        writer.write(torch.from_numpy(numbered(1)[0]))


def test_sound_from_another_file_and_longer_than_the_video(tmp_path: Path) -> None:
    sound = make_sound(tmp_path / "a.m4a", seconds=1.0)
    path = copy(make_movie(tmp_path / "a.mp4", numbered(5)), tmp_path / "b.mp4", sound)
    assert heard(path)[1] == pytest.approx(1.0, abs=0.05)


def test_damaged_sound_does_not_stop_the_video(tmp_path: Path) -> None:
    source = make_movie(tmp_path / "a.avi", numbered(10))
    sound = damage(make_sound(tmp_path / "a.wav", "pcm_s16le"), 0.5, 1.0)
    with VideoReader(copy(source, tmp_path / "b.mp4", sound)) as reader:
        assert len(list(reader)) == 10


def test_missing_sound_leaves_no_file(tmp_path: Path) -> None:
    with (
        pytest.raises(VideoError, match="no file"),
        VideoWriter(tmp_path / "b.mp4", 64, 48, Fraction(25), tmp_path / "missing.mp4"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
