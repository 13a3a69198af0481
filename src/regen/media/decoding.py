"""Decoder of one video stream: packets, frames, seeking, damage."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
from av.codec import CodecContext
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition, Stream
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from regen.console import first_line
from regen.media.files import Source, VideoError, open_for_ffmpeg
from regen.media.raw_video import SUFFIX as RAW_SUFFIX
from regen.media.raw_video import describe_raw_video

READ_ERRORS = (av.FFmpegError, OSError)
# libvpx decodes the transparency of WebM, FFmpeg's own decoders of these codecs drop it.
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
# Codecs that mark frames which no other frame references. HEVC's marks hold within a temporal layer only.
NON_REFERENCE_CODECS = ("h264",)


def _unknown_side_data(cls: type[SideDataType], number: object) -> SideDataType:
    """A type for side data that this release of PyAV does not know; without one it can't list any."""
    kind: Any = object.__new__(cls)
    kind._name_, kind._value_ = f"UNKNOWN_{number}", number
    return kind


SideDataType._missing_ = classmethod(_unknown_side_data)  # type: ignore[method-assign, assignment]


def open_input(path: Source) -> InputContainer:
    """Open a file. Raises VideoError when FFmpeg can't, or raw video has no description."""
    file = open_for_ffmpeg(path)
    raw = describe_raw_video(path) if path.suffix.lower() == RAW_SUFFIX else None
    try:
        if raw is not None:
            return av.open(file, format="rawvideo", options=raw.options, metadata_errors="replace")
        return av.open(file, metadata_errors="replace")
    except READ_ERRORS as error:
        raise VideoError(
            f"{path} can't be read as a video ({first_line(error)}); copy or record it again."
        ) from None


def video_stream(container: InputContainer) -> VideoStream | None:
    """The first video stream that is not a cover picture."""
    streams = (s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
    return next((stream for stream in streams if stream.codec_context is not None), None)


def time_base(stream: Stream) -> Fraction:
    """Seconds per tick of the stream's time stamps."""
    return stream.time_base or Fraction(1, av.time_base)


def average_rate(stream: VideoStream) -> Fraction:
    """Frames per second: of the container where it has times, else of the codec; 25 when neither says so."""
    declared = getattr(stream.codec_context, "framerate", None)
    if stream.start_time is None and stream.duration is None and declared:
        return declared
    return stream.average_rate or stream.guessed_rate or Fraction(25)


def _codec(stream: VideoStream) -> VideoCodecContext:
    """The stream's decoder, or one that decodes its transparency too."""
    name = ALPHA_DECODERS.get(stream.codec_context.name)
    if name is None or stream.metadata.get("alpha_mode") != "1":
        return stream.codec_context
    codec = CodecContext.create(name, "r")
    assert isinstance(codec, VideoCodecContext)
    return codec


class Decoder:
    """The video stream of a file, decoded with `threads` threads (0: one per core).

    `frames` counts decoded frames, `corrupt` those that the decoder flags as damaged, `errors` packets that
    could not be read or decoded.
    """

    def __init__(self, path: Source, threads: int) -> None:
        self.container = open_input(path)
        stream = video_stream(self.container)
        if stream is None:
            found = "only sound" if self.container.streams.audio else "no video"
            self.container.close()
            raise VideoError(f"{path} holds {found}; give a file with a video stream.")
        if stream.disposition & Disposition.dependent:
            self.container.close()
            raise VideoError(f"{path} is an image in tiles; save it as AVIF (.avif), PNG or JPEG.")
        self.stream, self.codec = stream, _codec(stream)
        self.codec.thread_type, self.codec.thread_count = "AUTO", threads
        self.packets = self.dropped = self.frames = self.corrupt = self.errors = 0
        self.end = 0  # of the last packet, in ticks
        self.is_encrypted = False
        self._errors_before_key: int | None = None

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *error: object) -> None:
        self.container.close()

    def seek(self, ticks: int) -> bool:
        """Seek to the key frame at or before `ticks` (of the stream's time base); False when that fails."""
        self._errors_before_key = None
        self.codec.skip_frame = "DEFAULT"
        try:
            self.container.seek(ticks, stream=self.stream)
        except READ_ERRORS:
            return False
        return True

    def demux(self) -> Iterator[av.Packet]:
        """All packets up to the end of the file or the first read error."""
        try:
            for packet in self.container.demux(self.stream):
                if self._errors_before_key is None and packet.is_keyframe:
                    self._errors_before_key = self.errors
                if not self.packets:
                    self.is_encrypted = packet.has_sidedata("encryption_info")
                self.packets += packet.size > 0
                self.dropped += packet.is_discard
                self.errors += packet.is_corrupt
                if packet.pts is not None:
                    self.end = max(self.end, packet.pts + (packet.duration or 0))
                yield packet
        except READ_ERRORS:
            self.errors += 1

    def decode(self) -> Iterator[av.VideoFrame]:
        """All decodable frames, in display order."""
        for packet in self.demux():
            yield from self._decode_packet(packet)

    def decode_only(self, ticks: Sequence[int], tolerance: int) -> Iterator[av.VideoFrame]:
        """The frames at the rising `ticks` and those that they reference; others are skipped.

        Stops after the last one. Call it after a seek, and seek again before anything else.
        """
        codec, last = self.codec, ticks[-1] + tolerance
        for packet in self.demux():
            if packet.dts is not None and packet.dts > last:  # no later packet is shown before that
                yield from self._decode_packet(None)
                return
            if codec.name in NON_REFERENCE_CODECS and packet.pts is not None:
                index = bisect_left(ticks, packet.pts - tolerance)
                wanted = index < len(ticks) and ticks[index] <= packet.pts + tolerance
                codec.skip_frame = "DEFAULT" if wanted else "NONREF"
            yield from self._decode_packet(packet)

    def _decode_packet(self, packet: av.Packet | None) -> Iterator[av.VideoFrame]:
        """The frames that the decoder returns for `packet`; None flushes it."""
        try:
            frames = self.codec.decode(packet)
        except READ_ERRORS:
            self.errors += 1
            return
        for frame in frames:
            self.frames += 1
            self.corrupt += frame.is_corrupt
            yield frame

    def first_pts(self) -> int | None:
        """Time of the first frame in ticks, from packets alone; None where they are not conclusive.

        It is the first packet's time when that is a key frame and no later packet is shown before it. Call it
        before decoding, and seek afterwards.
        """
        if "mp4" not in self.container.format.name:
            return None
        packets = self.demux()
        first = next(packets, None)
        if first is None or first.pts is None or not first.is_keyframe or first.is_discard:
            return None
        for packet in packets:
            if packet.pts is None or packet.dts is None or packet.pts < first.pts:
                return None
            if packet.dts >= first.pts:  # none after it is shown before its own decoding time
                break
        return int(first.pts)

    def is_in_first_group(self, ticks: int) -> bool:
        """Whether `ticks` lies before the second key frame; False where the file has no index."""
        is_indexed = "mp4" in self.container.format.name  # others learn of their key frames as they go
        return is_indexed and self.stream.index_entries.search_timestamp(ticks) == 0

    def until_damage(self, frames: Iterator[av.VideoFrame], after_seek: bool) -> Iterator[av.VideoFrame]:
        """Frames up to the first damage; after a seek from the first key frame on.

        Errors in packets before that key frame don't count: their references are missing after a seek.
        """
        started = not after_seek
        for frame in frames:
            started = started or frame.key_frame
            if not started:
                continue
            if frame.is_corrupt or self.errors > (self._errors_before_key or 0):
                self.errors += frame.is_corrupt
                return
            yield frame

    def damage_report(self, frame_rate: Fraction) -> str | None:
        """After decoding everything: what could not be read, in words; None without damage."""
        expected = self.packets - self.dropped if self.errors or self.corrupt else 0
        kind, declared = self.container.format.name, self.container.duration
        if "mp4" in kind:  # the index has each frame once; the declared count forgets about edits
            expected = max(expected, len(self.stream.index_entries) - self.dropped)
        elif "matroska" in kind:
            if declared is not None and not self.container.streams.audio:  # audio may last longer
                missing = Fraction(declared, av.time_base) - self.end * time_base(self.stream)
                expected = max(expected, self.frames + round(missing * frame_rate))
        else:
            expected = max(expected, self.stream.frames)
        total = max(expected, self.frames)
        lost = total - self.frames
        parts = [f"{lost} of {total} frames could not be read"] if lost else []
        parts += [f"{self.corrupt} of {total} frames could be read only in part"] if self.corrupt else []
        return " and ".join(parts) or None
