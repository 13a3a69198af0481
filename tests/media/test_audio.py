"""Audio: copied in time by the writer, or into a file of its own."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av import AudioFrame, AudioResampler
from movies import damage, make_movie, make_sound, numbered

from regen.media.audio import extract_audio
from regen.media.reader import VideoError, VideoReader, VideoWriter


def copy(source: Path, path: Path, sound: Path | None = None, delay: Fraction = Fraction(0)) -> Path:
    """Read all frames of `source` and write them again, with its sound or that of `sound`."""
    with VideoReader(source) as reader:
        info = reader.info
        with VideoWriter(path, info.width, info.height, info.frame_rate, sound or source, delay) as writer:
            for frame in reader:
                writer.write(frame.image, frame.time)
    return path


def packets(path: Path) -> list[bytes]:
    header = 7 if path.suffix == ".ts" else 0  # a transport stream heads each packet of AAC
    with av.open(str(path)) as container:
        return [bytes(packet)[header:] for packet in container.demux(audio=0) if packet.size]


def packet_times(path: Path) -> list[float]:
    """Of the audio, in seconds after the first frame of the video, if there is one."""
    with av.open(str(path)) as container:
        video, audio = container.streams.video, container.streams.audio[0]
        start = video[0].start_time * video[0].time_base if video else 0
        return [
            float(packet.pts * packet.time_base - start) for packet in container.demux(audio) if packet.size
        ]


def first_frame(path: Path) -> float:
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).time


def heard(path: Path) -> tuple[str, float, float]:
    """Codec, seconds of sound, and when it starts after the first frame."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        rate = container.streams.audio[0].rate
        name = container.streams.audio[0].codec_context.name
        return name, sum(frame.samples for frame in frames) / rate, frames[0].time - first_frame(path)


def tone(path: Path) -> tuple[float, float]:
    """When the tone begins and ends, after the first frame; what a decoder adds to it is silent."""
    loud, video = [], first_frame(path)
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            wave = frame.to_ndarray()[0]
            assert np.issubdtype(wave.dtype, np.floating)
            loud.extend(frame.time + np.flatnonzero(np.abs(wave) > 0.1) / frame.sample_rate - video)
    return loud[0], loud[-1]


@pytest.mark.parametrize("source", ["a.mp4", "a.ts", "a.mkv"])
@pytest.mark.parametrize("target", ["b.mp4", "b.mov", "b.mkv"])
def test_packets_are_copied_in_time(tmp_path: Path, source: str, target: str) -> None:
    first = make_movie(tmp_path / source, numbered(20), audio="aac", options={"bf": "2"})
    second = copy(first, tmp_path / target)
    assert packets(second) == packets(first)
    assert heard(second)[1] == pytest.approx(heard(first)[1], abs=0.05)
    assert heard(second)[2] == pytest.approx(heard(first)[2], abs=0.03)


@pytest.mark.parametrize("delay", [Fraction(0), Fraction(1, 3), Fraction(1001, 500)])
@pytest.mark.parametrize("target", ["b.mp4", "b.mkv"])
@pytest.mark.parametrize(("source", "codec"), [("a.mp4", "aac"), ("a.ts", "aac"), ("a.avi", "adpcm_ms")])
def test_delayed_sound_begins_so_much_later(
    tmp_path: Path, source: str, codec: str, target: str, delay: Fraction
) -> None:
    first = make_movie(tmp_path / source, numbered(20), audio=codec, options={"bf": "0"})
    second = copy(first, tmp_path / target, delay=delay)
    assert tone(second) == pytest.approx((delay, delay + Fraction(4, 5)), abs=3e-3)
    assert heard(second)[0] == "aac"
    with VideoReader(second) as reader:
        assert [frame.time for frame in reader] == pytest.approx([i / 25 for i in range(20)], abs=1e-3)
    if codec == "aac":
        assert packets(second) == packets(first)


def test_a_delay_keeps_what_lies_between_sound_and_pictures(tmp_path: Path) -> None:
    """A source whose pictures begin late: the sound that belongs to its first frame is moved to the delay."""
    times = [0.4 + index / 25 for index in range(20)]
    late = make_movie(tmp_path / "a.mkv", numbered(20), times=times, audio="aac")
    for delay in (Fraction(1, 2), Fraction(2)):
        assert tone(copy(late, tmp_path / "b.mp4", delay=delay))[0] == pytest.approx(delay - 0.4, abs=3e-3)


@pytest.mark.parametrize("target", ["b.mp4", "b.mov", "b.mkv"])
@pytest.mark.parametrize("codec", ["flac", "libopus", "libmp3lame", "ac3", "alac"])
def test_any_codec_goes_into_any_container(tmp_path: Path, codec: str, target: str) -> None:
    """Also those that FFmpeg wrongly lists for MOV; from another file, and longer than the video."""
    with av.open(str(tmp_path / "a.mka"), "w") as container:
        stream = container.add_stream(codec, rate=48000, layout="stereo")
        samples = AudioFrame.from_ndarray(np.zeros((2, 48000), np.float32), "fltp", "stereo")
        samples.sample_rate, samples.pts = 48000, 0
        for frame in AudioResampler(stream.codec_context.format, "stereo", 48000).resample(samples):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    movie = make_movie(tmp_path / "a.mp4", numbered(5))
    assert heard(copy(movie, tmp_path / target, tmp_path / "a.mka"))[1] == pytest.approx(1, abs=0.08)


def test_sound_that_the_container_does_not_take_becomes_aac(tmp_path: Path) -> None:
    source = make_movie(tmp_path / "a.avi", numbered(25), audio="pcm_s16le")
    assert heard(copy(source, tmp_path / "b.mkv"))[0] == "pcm_s16le"
    assert heard(copy(source, tmp_path / "b.mp4"))[:2] == ("aac", pytest.approx(1, abs=0.05))
    with av.open(str(tmp_path / "b.mp4")) as container:
        wave = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    spectrum = np.abs(np.fft.rfft(wave))
    assert spectrum.argmax() * 44100 / len(wave) == pytest.approx(440, abs=3), "the tone is the same"


def test_without_sound_there_is_none(tmp_path: Path) -> None:
    path = copy(make_movie(tmp_path / "a.mp4", numbered(3)), tmp_path / "b.mp4")
    with VideoReader(path) as reader:
        assert not reader.info.has_audio
    with VideoWriter(tmp_path / "c.mp4", 64, 48, Fraction(25), tmp_path / "picture.png") as writer:
        writer.write(torch.from_numpy(numbered(1)[0]))


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


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "aac"), ("a.mkv", "aac"), ("a.avi", "libmp3lame"), ("a.m4a", "")]
)
def test_extracted_packets_keep_content_and_time(tmp_path: Path, name: str, codec: str) -> None:
    path, kept = tmp_path / name, tmp_path / "kept.m4a"
    source = make_movie(path, numbered(15), audio=codec) if codec else make_sound(path)
    content, note = extract_audio(source)
    assert content is not None and note is None
    kept.write_bytes(content)
    assert packets(kept) == packets(source)
    assert packet_times(kept) == pytest.approx(packet_times(source), abs=1e-3)


def test_extracting_from_a_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("text")
    with pytest.raises(VideoError, match=r"a\.mp4"):
        extract_audio(tmp_path / "a.mp4")
