"""One opening of a video file: packets, decoded frames, seeking, and an account of what could not be read."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from regen.data.media import VideoError, reason, require_file

READ_ERRORS = (av.FFmpegError, OSError)


def open_input(path: Path) -> InputContainer:
    """Raises VideoError in one sentence when `path` is no file that FFmpeg can open."""
    require_file(path)
    try:
        # An absolute path: FFmpeg takes a name like "a:b.mp4" for a protocol.
        return av.open(str(path.absolute()), metadata_errors="replace")
    except READ_ERRORS as error:
        raise VideoError(
            f"{path} can't be read as a video ({reason(error)}): it is incomplete, damaged or no video."
        ) from None


def video_stream(container: InputContainer) -> VideoStream | None:
    """The first stream of moving pictures; the cover of a song is none."""
    streams = (s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
    return next((stream for stream in streams if stream.codec_context is not None), None)


def time_base(stream: Stream) -> Fraction:
    """Seconds per tick of the stream's time stamps."""
    return stream.time_base or Fraction(1, av.time_base)


class Decoder:
    """The video stream of a file, opened for decoding with `threads` threads (0: one per core).

    `frames`, `corrupt`, `errors` count what came out so far: frames decoded, those among them that the
    decoder flags as damaged, packets that could not be read or decoded.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self.container = open_input(path)
        stream = video_stream(self.container)
        if stream is None:
            found = "only sound" if self.container.streams.audio else "no video"
            self.container.close()
            raise VideoError(f"{path} holds {found}; give a file with a video stream.")
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        self.stream = stream
        self.packets = self.dropped = self.frames = self.corrupt = self.errors = 0
        self.end = Fraction(0)

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.container.close()

    def seek(self, ticks: int) -> bool:
        """Go to the key frame at or before `ticks` (of the stream's time base); False when that fails."""
        try:
            self.container.seek(ticks, stream=self.stream)
        except READ_ERRORS:
            return False
        return True

    def demux(self) -> Iterator[av.Packet]:
        """All packets up to the end of the file or to where it can't be read any more."""
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except READ_ERRORS:
                self.errors += 1
                return
            self.packets += packet.size > 0
            self.dropped += packet.is_discard
            self.errors += packet.is_corrupt
            if packet.pts is not None:
                self.end = max(self.end, (packet.pts + (packet.duration or 0)) * packet.time_base)
            yield packet

    def decode(self) -> Iterator[av.VideoFrame]:
        """All frames that can be decoded, in display order."""
        for packet in self.demux():
            try:
                frames = packet.decode()
            except READ_ERRORS:
                self.errors += 1
                continue
            for frame in frames:
                self.frames += 1
                self.corrupt += frame.is_corrupt
                yield frame

    def decode_soundly(self, after_seek: bool) -> Iterator[av.VideoFrame]:
        """Frames up to the first damage; after a seek from the first key frame on, for others lack theirs."""
        errors = None
        for frame in self.decode():
            if errors is None and after_seek and not frame.key_frame:
                continue
            errors = self.errors if errors is None else errors
            if frame.is_corrupt or self.errors > errors:
                self.errors += frame.is_corrupt
                return
            yield frame

    def damage(self, frame_rate: Fraction) -> str | None:
        """After everything was decoded: what could not be read, in words; None when all is well."""
        expected = self.packets - self.dropped if self.errors or self.corrupt else 0
        kind = self.container.format.name
        if "mp4" in kind:  # the index has each frame once; the declared count forgets about edits
            expected = max(expected, len(self.stream.index_entries) - self.dropped)
        elif "matroska" in kind:
            expected = max(expected, self.frames + round(self._missing_seconds() * frame_rate))
        else:
            expected = max(expected, self.stream.frames)
        total = max(expected, self.frames)
        lost = total - self.frames
        parts = [f"{lost} of {total} frames could not be read"] if lost else []
        parts += [f"{self.corrupt} of {total} frames could be read only in part"] if self.corrupt else []
        return " and ".join(parts) or None

    def _missing_seconds(self) -> Fraction:
        """How far the packets end before the declared duration; sound, if any, may be what lasts longer."""
        if self.container.duration is None or self.container.streams.audio:
            return Fraction(0)
        return max(Fraction(self.container.duration, av.time_base) - self.end, Fraction(0))
