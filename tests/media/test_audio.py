"""The sound that is kept without its video lies where it lay: the same packets at the same times."""

from pathlib import Path

import av
import pytest
from tiny_media import make_sound, make_video

from regen.media.audio import SUFFIX, extract_audio
from regen.media.reader import VideoError


def packets(path: Path) -> list[tuple[float, bytes]]:
    """Time (after the first frame of the video, if there is one) and content of the sound packets."""
    with av.open(str(path)) as container:
        video = container.streams.video
        start = video[0].start_time * video[0].time_base if video else 0
        sound = container.demux(container.streams.audio[0])
        return [
            (float(packet.pts * packet.time_base - start), bytes(packet)) for packet in sound if packet.size
        ]


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "aac"), (".mkv", "aac"), (".avi", "libmp3lame")])
def test_packets_keep_content_and_time(tmp_path: Path, suffix: str, codec: str) -> None:
    source = make_video(tmp_path / f"a{suffix}", frames=15, sound=codec)
    kept = tmp_path / f"kept{SUFFIX}"
    kept.write_bytes(extract_audio(source))
    before, after = packets(source), packets(kept)
    assert [content for _, content in after] == [content for _, content in before]
    assert [time for time, _ in after] == pytest.approx([time for time, _ in before], abs=1e-3)


def test_sound_alone_is_copied_too(tmp_path: Path) -> None:
    source = make_sound(tmp_path / "a.m4a")
    (tmp_path / "kept.m4a").write_bytes(extract_audio(source))
    assert packets(tmp_path / "kept.m4a") == packets(source)


def test_what_is_no_media_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("text")
    with pytest.raises(VideoError, match=r"a\.mp4"):
        extract_audio(tmp_path / "a.mp4")
