"""Files as they come from phones, recorders and the web: each kind is read whole, upright and in time."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from movies import make_movie, number_of, numbered
from PIL import Image, ImageCms

from regen.codec.latent_file import LatentVideo, read, write
from regen.latents import Latents
from regen.media.audio import extract_audio
from regen.media.reader import VideoError, VideoReader, VideoWriter, read_frames

TS = 188  # bytes of a packet of a transport stream


def copy(source: Path, path: Path) -> list[str]:
    """Read and write all frames with the sound; returns what was noted."""
    with VideoReader(source, square_pixels=False) as reader:
        info = reader.info
        size, audio = (info.width, info.height, info.frame_rate), source if info.has_audio else None
        with VideoWriter(path, *size, audio, pixel_aspect=info.pixel_aspect) as writer:
            for frame in reader:
                writer.write(frame.image, frame.time)
        return reader.notes + writer.notes


def sound_times(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.array([packet.pts * packet.time_base for packet in container.demux(audio=0) if packet.size])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_frames_of_motion_jpeg(tmp_path: Path, orientation: int) -> None:
    image = numbered(1)[0]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image).save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj444p"
        for number in range(3):
            packet = av.Packet((tmp_path / "a.jpg").read_bytes())
            packet.pts = packet.dts = number
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 10), stream, True
            container.mux(packet)
    with VideoReader(tmp_path / "a.avi") as moving, VideoReader(tmp_path / "a.jpg") as still:
        found, expected = next(iter(moving)).image, next(iter(still)).image
        assert (moving.info.width, moving.info.height) == (still.info.width, still.info.height)
    assert (found.float() - expected.float()).abs().mean() < 3


@pytest.mark.parametrize("suffix", [".tiff", ".avif"])
def test_stills_of_other_formats(tmp_path: Path, suffix: str) -> None:
    image = np.kron(numbered(1)[0], np.ones((4, 4, 1), np.uint8))
    Image.fromarray(image).save(tmp_path / f"a{suffix}")
    with VideoReader(tmp_path / f"a{suffix}") as reader:
        assert (reader.info.width, reader.info.height, reader.info.is_image) == (256, 192, True)
        assert np.abs(next(iter(reader)).image.numpy().astype(int) - image).mean() < 4
    with pytest.raises(VideoError, match="must end in"):
        VideoWriter(tmp_path / f"b{suffix}", 64, 48, Fraction(1))


@pytest.mark.parametrize("suffix", [".png", ".webp", ".avif", ".gif"])
@pytest.mark.parametrize("name", ["", ".mp4", ".png"])
def test_the_content_tells_images_from_videos(tmp_path: Path, suffix: str, name: str) -> None:
    """Of pipes and addresses a name tells nothing, and some files have a wrong one."""
    images = [Image.fromarray(image) for image in numbered(4)]
    images[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=images[1:], duration=[100] * 4)
    for source in (tmp_path / f"a{suffix}", make_movie(tmp_path / "b.mkv", numbered(4))):
        other = source.rename(tmp_path / f"c{name}")
        with VideoReader(other) as reader:
            assert [number_of(frame.image) for frame in reader] == [0, 1, 2, 3]


def test_grey_images_of_floats(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    for number, scale in enumerate((1, 255)):
        Image.fromarray(values * scale).save(tmp_path / f"{number}.tiff")
        with VideoReader(tmp_path / f"{number}.tiff") as reader:
            found = next(iter(reader)).image[..., 0].numpy()
        assert (found == np.arange(256).reshape(16, 16)).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_of_a_profile_become_srgb(tmp_path: Path, mode: str) -> None:
    """The profile exchanges red and blue."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for place in range(128, 128 + 12 * 20, 12):
        tag = bytes(content[place + 4 : place + 8])
        if tag in (b"rXYZ", b"bXYZ"):
            content[place + 4 : place + 8] = b"bXYZ" if tag == b"rXYZ" else b"rXYZ"
    content = content.replace(b"s\0R\0G\0B", b"o\0d\0d\0 ").replace(b"sRGB", b"odd ")
    image = Image.new(mode, (16, 16), (250, 100, 10, 255)[: len(mode)])
    image.save(tmp_path / "a.png", icc_profile=bytes(content))
    with VideoReader(tmp_path / "a.png") as reader:
        found = next(iter(reader)).image.numpy().astype(int)
    assert np.abs(found - (10, 100, 250)).max() <= 3


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("rate", [240, 1000])
def test_high_speed_videos(tmp_path: Path, suffix: str, rate: int) -> None:
    path = make_movie(tmp_path / f"a{suffix}", numbered(20), rate=Fraction(rate))
    with VideoReader(path) as reader:
        times = [frame.time for frame in reader]
        assert times == pytest.approx(np.arange(20) / rate, abs=5.1e-4)
        assert [number_of(image) for image in reader.read_at(times)] == list(range(20))
    assert [number_of(image) for image in read_frames(path, times)] == list(range(20))


@pytest.mark.parametrize("suffix", [".png", ".webp", ".avif", ".gif"])
def test_moving_images_are_videos(tmp_path: Path, suffix: str) -> None:
    path, images = tmp_path / f"a{suffix}", [Image.fromarray(image) for image in numbered(10)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=[100] * 5 + [200] * 5)
    with VideoReader(path) as reader:
        frames, info = list(reader), reader.info
        assert [number_of(frame.image) for frame in frames] == list(range(10))
        assert (info.is_image, info.width, info.height) == (False, 64, 48)
        times = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.1, 1.3]
        assert [frame.time for frame in frames] == pytest.approx(times, abs=2e-3)
        assert reader.frame_times() == pytest.approx(times, abs=2e-3)
        assert [number_of(image) for image in reader.read_at([1.15, 0.05])] == [8, 0]
    assert [number_of(image) for image in read_frames(path, [0.7, 0.2])] == [6, 2]


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 64, 48, Fraction(25), pixel_aspect=Fraction(16, 11)) as writer:
        for image in numbered(3):
            writer.write(torch.from_numpy(image))
    copy(tmp_path / "a.mp4", tmp_path / "b.mp4")
    with VideoReader(tmp_path / "b.mp4", square_pixels=False) as reader:
        assert (reader.info.width, reader.info.pixel_aspect) == (64, Fraction(16, 11))
    with VideoReader(tmp_path / "b.mp4") as reader:
        assert (reader.info.width, reader.info.height, reader.info.pixel_aspect) == (93, 48, 1)
        assert next(iter(reader)).image.shape == (48, 93, 3)
    assert read_frames(tmp_path / "b.mp4", [0.0]).shape == (1, 48, 93, 3)


def test_a_latent_file_keeps_the_aspect_of_its_pixels(tmp_path: Path) -> None:
    times, sides = torch.zeros(1, dtype=torch.float64), (8, 8, 8, 8)
    latents = Latents.of(torch.zeros(1, 4, 1, 1, 1))
    aspect = Fraction(16, 11)
    write(
        tmp_path / "a.safetensors", LatentVideo(latents, times, *sides, Fraction(25), "m", "w", None, aspect)
    )
    assert read(tmp_path / "a.safetensors").pixel_aspect == aspect


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9", "qtrle", "prores_ks"])
@pytest.mark.parametrize("background", [(0, 0, 0), (255, 255, 0)])
def test_transparent_parts_lie_over_the_background(
    tmp_path: Path, codec: str, background: tuple[int, int, int]
) -> None:
    image = np.full((64, 64, 4), (250, 10, 10, 255), np.uint8)
    image[:, 32:, 3] = 0
    is_web = codec.startswith("libvpx")
    pixel_format = {"qtrle": "argb", "prores_ks": "yuva444p10le"}.get(codec, "yuva420p")
    path = tmp_path / f"a.{'webm' if is_web else 'mov'}"
    make_movie(
        path,
        [image] * 3,
        codec=codec,
        pixel_format=pixel_format,
        options={"auto-alt-ref": "0"} if is_web else None,
    )
    with VideoReader(path, background=background) as reader:
        frames = list(reader)
    assert len(frames) == 3
    for frame in frames:
        found = frame.image.numpy().astype(int)
        assert np.abs(found[:, :28] - (250, 10, 10)).max() < 12
        assert np.abs(found[:, 36:] - background).max() < 12


def test_times_go_on_where_the_clock_restarts(tmp_path: Path) -> None:
    part = make_movie(tmp_path / "part.ts", numbered(20), rate=Fraction(10), audio="aac").read_bytes()
    (tmp_path / "a.ts").write_bytes(part + part)
    with VideoReader(tmp_path / "a.ts") as reader:
        frames = list(reader)
        assert len(reader.notes) == 1
        assert reader.frame_times() == pytest.approx([frame.time for frame in frames], abs=2e-3)
    assert [number_of(frame.image) for frame in frames] == [*range(20), *range(20)]
    assert [frame.time for frame in frames] == pytest.approx(np.arange(40) / 10, abs=2e-3)
    assert number_of(read_frames(tmp_path / "a.ts", [2.5])[0]) == 5
    assert len(copy(tmp_path / "a.ts", tmp_path / "b.mp4")) == 2
    times = sound_times(tmp_path / "b.mp4")
    assert np.diff(times).min() > 0
    assert times[-1] == pytest.approx(4, abs=0.15)


@pytest.mark.parametrize("back", [0, 5, 300])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_equal_and_backward_times_of_sound_are_moved(tmp_path: Path, back: int, suffix: str) -> None:
    """One packet of sound is set back to `back` milliseconds before the last one, by its bytes."""
    source = make_movie(tmp_path / "a.mkv", numbered(25), audio="aac")
    with av.open(str(source)) as container:
        packets = [(bytes(packet), packet.pts) for packet in container.demux(audio=0) if packet.size]
    content = bytearray(source.read_bytes())
    (last, time), (moved, _) = packets[18:20]
    # Before its data a block of Matroska has its time in the cluster in 16 bits, and 8 bits of flags.
    place, before = content.index(moved) - 3, content.index(last) - 3
    begin = time - int.from_bytes(content[before : before + 2], "big", signed=True)
    content[place : place + 2] = (time - back - begin).to_bytes(2, "big", signed=True)
    source.write_bytes(content)
    with av.open(str(source)) as container:
        times = [packet.pts for packet in container.demux(audio=0) if packet.size]
    assert times[19] - times[18] == -back
    assert copy(source, tmp_path / f"b{suffix}") == ["the times of 1 packets of sound were moved"]
    found = sound_times(tmp_path / f"b{suffix}")
    assert len(found) == len(packets) and np.diff(found).min() > 0
    assert found[-1] == pytest.approx(packets[-1][1] / 1000, abs=0.05)
    with VideoReader(tmp_path / f"b{suffix}") as reader:
        assert len(list(reader)) == 25


def test_sound_in_ticks_of_an_odd_length(tmp_path: Path) -> None:
    """Of 5.194304 instead of 1 ms, so that a finer one with the same times can't be counted in 32 bits."""
    source = make_movie(tmp_path / "a.mkv", numbered(25), audio="flac")
    content = source.read_bytes()
    scale = b"\x2a\xd7\xb1\x83"  # TimestampScale of three bytes, in nanoseconds
    assert content.count(scale + b"\x0f\x42\x40") == 1
    source.write_bytes(content.replace(scale + b"\x0f\x42\x40", scale + b"\x4f\x42\x40"))
    copy(source, tmp_path / "b.mkv")
    assert sound_times(tmp_path / "b.mkv")[-1] == pytest.approx(sound_times(source)[-1], abs=0.05)


@pytest.mark.parametrize("codec", ["aac", "mp2"])
def test_sound_goes_on_after_lost_packets(tmp_path: Path, codec: str) -> None:
    path = make_movie(tmp_path / "a.ts", numbered(75), audio=codec)
    content = path.read_bytes()
    packets = [content[start : start + TS] for start in range(0, len(content), TS)]
    middle = len(packets) // 3
    path.write_bytes(b"".join(packets[:middle] + packets[middle + 3 :]))
    copy(path, tmp_path / "b.mp4")
    assert sound_times(tmp_path / "b.mp4")[-1] == pytest.approx(3, abs=0.15)


def test_surround_stays_surround(tmp_path: Path) -> None:
    source = make_movie(tmp_path / "a.mov", numbered(25), audio="pcm_s16le", layout="5.1")
    assert copy(source, tmp_path / "b.mp4") == []
    with av.open(str(tmp_path / "b.mp4")) as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.name, stream.codec_context.layout.name) == ("aac", "5.1")
        assert sum(frame.samples for frame in container.decode(audio=0)) / stream.rate > 0.95


def test_sound_that_cannot_be_decoded_is_left_out_with_a_note(tmp_path: Path) -> None:
    source = make_movie(tmp_path / "a.mkv", numbered(25), audio="pcm_s16le")
    content = source.read_bytes()
    assert content.count(b"A_PCM/INT/LIT") == 1
    source.write_bytes(content.replace(b"A_PCM/INT/LIT", b"A_TRUEHD\0\0\0\0\0"))
    (note,) = copy(source, tmp_path / "b.mp4")
    assert "can't be decoded" in note
    assert extract_audio(source)[0] is None


def test_raw_h264_has_the_rate_of_its_codec(tmp_path: Path) -> None:
    make_movie(tmp_path / "a.h264", numbered(12), rate=Fraction(12))
    with VideoReader(tmp_path / "a.h264") as reader:
        assert reader.info.frame_rate == 12
        assert [frame.time for frame in reader] == pytest.approx(np.arange(12) / 12)


def test_very_slow_rates(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 64, 48, Fraction(1, 20_000)) as writer:
        for image in numbered(7):
            writer.write(torch.from_numpy(image))
    with VideoReader(tmp_path / "a.mp4") as reader:
        assert [frame.time for frame in reader] == pytest.approx(np.arange(7) * 20_000.0)


def test_errors_do_not_blame_the_folder_for_a_stream(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", 64, 48, Fraction(25))
    assert "folder" not in str(writer._failure(av.ArgumentError(22, "Invalid argument")))
    assert "folder" in str(writer._failure(PermissionError(13, "Permission denied")))


def test_an_encrypted_video_is_called_so(tmp_path: Path) -> None:
    options = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "76" * 16, "encryption_kid": "a7" * 16}
    path = make_movie(tmp_path / "a.mp4", numbered(3), container_options=options)
    with pytest.raises(VideoError, match="is encrypted; give a copy"):
        VideoReader(path)


@pytest.mark.parametrize("options", [{}, {"flags": "+ildct+ilme"}])
def test_interlaced_videos_are_called_so(tmp_path: Path, options: dict[str, str]) -> None:
    path = make_movie(tmp_path / "a.mpg", numbered(6), codec="mpeg2video", options=options)
    with VideoReader(path) as reader:
        assert [number_of(frame.image) for frame in reader] == list(range(6))
        assert [note[:16] for note in reader.notes] == ["it is interlaced"] * bool(options)
