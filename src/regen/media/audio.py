"""Audio of a video, copied into another file or a file of its own."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from math import ceil
from pathlib import Path

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import OutputContainer

from regen.console import first_line
from regen.media.decoding import READ_ERRORS, open_input, time_base, video_stream
from regen.media.files import Source, VideoError

AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # samples per second
AAC_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0"}  # by channels; 5.1 for more
AAC_BIT_RATE = 96_000  # for each channel
MAX_TICKS = 2**31 - 1  # per second, of FFmpeg
TICKS = 90_000  # coarsest resolution of the time stamps, per second
# Codecs that FFmpeg lists as supported but does not write, by container.
REFUSED = {"mp4": ("truehd",), "mov": ("flac", "opus", "truehd"), "matroska": ()}
RESTART = 0.5  # seconds; times that go back further are of a clock that has restarted
MIN_STEP = Fraction(1, 1000)  # seconds between packets that are moved; a tick of Matroska
MIN_GAP = 0.05  # seconds without sound that become silence; less is inexact times
MAX_GAP = 600.0  # seconds; a longer one is a wrong time
MAX_READ_ERRORS = 100  # in a row; then the rest is given up


@dataclass
class AudioReport:
    """What was not as it should be in an audio stream, in packets."""

    codec: str = ""
    packets: int = 0
    moved: int = 0
    lost: int = 0
    undecodable: bool = False

    def text(self) -> str | None:
        """A sentence without its subject; None when all was right."""
        if self.undecodable:
            return f"its sound ({self.codec}) can't be decoded and is left out; try an output in .mkv"
        parts = [f"the times of {self.moved} packets of sound were moved"] if self.moved else []
        parts += [f"{self.lost} packets of sound could not be read"] if self.lost else []
        return " and ".join(parts) or None


def extract_audio(path: Path) -> tuple[bytes | None, str | None]:
    """The first audio stream of `path` as an MP4 file: its packets where MP4 allows the codec, else AAC.

    Time 0 is the first frame of the video. None for sound that can't be decoded. Also what was wrong with it
    (see `AudioReport.text`). Raises VideoError when the audio can't be copied.
    """
    buffer = BytesIO()
    try:
        with av.open(buffer, "w", format="mp4") as output, closing(AudioCopier(path, output)) as audio:
            if audio.report.undecodable:
                return None, audio.report.text()
            audio.write_until(None)
    except READ_ERRORS as error:
        raise VideoError(f"The sound of {path} can't be copied ({first_line(error)}); remove it.") from None
    return buffer.getvalue(), audio.report.text()


class AudioCopier:
    """Copies the first audio stream of `source`, if there is one, into `output`, or encodes it as AAC.

    The first frame of the source's video is at `delay` (seconds, at least 0) in the output. Damaged places
    stay silent. Times rise: where the clock of the source restarts, the sound goes on. `report` counts both.
    Raises VideoError when `source` can't be opened.
    """

    def __init__(self, source: Source, output: OutputContainer, delay: Fraction = Fraction(0)) -> None:
        self._input = open_input(source)
        self._output = output
        self._next: av.Packet | None = None
        self._packets: Iterator[av.Packet] = iter(())
        self.report = AudioReport()
        video = video_stream(self._input)
        start = Fraction(0) if video is None else (video.start_time or 0) * time_base(video)
        self._shift = start - delay  # seconds by which the output is earlier than the source
        if self._input.streams.audio:
            stream = self._input.streams.audio[0]
            self.report.codec = getattr(stream.codec_context, "name", "unknown")
            if _can_copy(stream, output):
                self._packets = self._copied(stream)
            elif self._can_decode(source):
                self._packets = self._encoded(stream)
            else:
                self.report.undecodable = True
            self._next = next(self._packets, None)

    def write_until(self, seconds: float | None) -> None:
        """Write the packets that begin before `seconds`; None writes all that are left."""
        while self._next is not None:
            if seconds is not None and self._next.pts * self._next.time_base >= seconds:
                return
            try:
                self._output.mux(self._next)
            except (av.ArgumentError, av.InvalidDataError):  # a packet that the container does not take
                self.report.lost += 1
            self._next = next(self._packets, None)

    def close(self) -> None:
        """Close the source."""
        self._input.close()

    def _can_decode(self, source: Source) -> bool:
        """Whether a single frame of the stream can be decoded."""
        with open_input(source) as container:
            try:
                return any(packet.decode() for packet in container.demux(container.streams.audio[0]))
            except READ_ERRORS:
                return False

    def _copied(self, stream: AudioStream) -> Iterator[av.Packet]:
        target = self._output.add_stream_from_template(stream)
        last: int | None = None
        for packet in self._demux(stream):
            parts = ceil(packet.time_base * TICKS)  # AVI counts in whole packets, too coarse for a shift
            if packet.time_base.denominator * parts > MAX_TICKS:
                parts = 1
            packet.pts = packet.pts * parts - round(self._shift / packet.time_base * parts)
            packet.duration *= parts
            packet.time_base /= parts
            if last is not None and packet.pts <= last:
                packet.pts = last + ceil(MIN_STEP / packet.time_base)
                self.report.moved += 1
            last = packet.dts = packet.pts
            packet.stream = target
            yield packet

    def _encoded(self, stream: AudioStream) -> Iterator[av.Packet]:
        source = stream.codec_context
        rate = min((r for r in AAC_RATES if r >= source.sample_rate), default=AAC_RATES[-1])
        channels = source.layout.nb_channels
        layout = AAC_LAYOUTS.get(channels, "5.1")
        target = self._output.add_stream(
            "aac", rate=rate, layout=layout, bit_rate=AAC_BIT_RATE * max(2, min(channels, 6))
        )
        end: int | None = None  # of the sound so far, in samples
        for frame, begin in self._resampled(stream, layout, rate):
            begin -= round(self._shift * rate)
            end = begin if end is None else end
            gap = begin - end
            if MIN_GAP * rate < gap < MAX_GAP * rate:
                yield from target.encode(_silence(gap, layout, rate, end))
                end = begin
            frame.pts, frame.time_base = end, Fraction(1, rate)
            end += frame.samples
            yield from target.encode(frame)
        yield from target.encode()

    def _resampled(self, stream: AudioStream, layout: str, rate: int) -> Iterator[tuple[av.AudioFrame, int]]:
        """The decoded sound in the format of the AAC encoder, with its time in samples of `rate`."""
        resampler, form = AudioResampler(format="fltp", layout=layout, rate=rate), None
        for packet in self._demux(stream):
            begin = round(packet.pts * packet.time_base * rate)
            try:
                frames = packet.decode()
            except READ_ERRORS:
                self.report.lost += 1
                continue
            for frame in frames:
                if form not in (None, found := (frame.format.name, frame.layout.name, frame.sample_rate)):
                    resampler = AudioResampler(format="fltp", layout=layout, rate=rate)
                form = found
                frame.pts = None
                for part in resampler.resample(frame):
                    yield part, begin
                    begin += part.samples
        for part in resampler.resample(None):
            yield part, begin

    def _demux(self, stream: AudioStream) -> Iterator[av.Packet]:
        """The readable packets of the stream, in the time of a clock that never restarts."""
        end: Fraction | None = None  # of the last packet, in seconds
        offset = Fraction(0)
        for packet in self._readable(stream):
            begin = packet.pts * packet.time_base + offset
            if end is not None and begin < end - Fraction(RESTART):
                offset += end - begin
                begin = end
                self.report.moved += 1
            packet.pts = round(begin / packet.time_base)
            end = begin + (packet.duration or 0) * packet.time_base
            yield packet

    def _readable(self, stream: AudioStream) -> Iterator[av.Packet]:
        errors = 0
        while errors < MAX_READ_ERRORS:
            try:
                for packet in self._input.demux(stream):
                    if packet.size == 0:
                        continue
                    self.report.packets += 1
                    if packet.is_corrupt or packet.pts is None:
                        self.report.lost += 1
                        continue
                    errors = 0
                    yield packet
                return
            except READ_ERRORS:
                errors += 1
        self.report.lost += 1


def _silence(samples: int, layout: str, rate: int, begin: int) -> av.AudioFrame:
    channels = av.AudioLayout(layout).nb_channels
    frame = av.AudioFrame.from_ndarray(np.zeros((channels, samples), np.float32), "fltp", layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, begin, Fraction(1, rate)
    return frame


def _can_copy(stream: AudioStream, output: OutputContainer) -> bool:
    container = output.format.name
    if stream.codec_context is None:
        return False
    codec = stream.codec_context.name
    raw_in_mp4 = codec.startswith("pcm_") and container == "mp4"  # hardly any player takes it
    return codec in output.supported_codecs and codec not in REFUSED[container] and not raw_in_mp4
