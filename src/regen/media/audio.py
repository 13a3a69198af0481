"""Audio of a video, copied into another file or a file of its own."""

from collections.abc import Iterator
from contextlib import closing, suppress
from fractions import Fraction
from io import BytesIO
from math import ceil
from pathlib import Path

import av
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import OutputContainer

from regen.console import first_line
from regen.media.decoding import READ_ERRORS, open_input, time_base, video_stream
from regen.media.files import Source, VideoError

AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # samples per second
TICKS = 90_000  # coarsest resolution of the time stamps, per second
# Codecs that FFmpeg lists as supported but does not write, by container.
REFUSED = {"mp4": ("truehd",), "mov": ("flac", "opus", "truehd"), "matroska": ()}


def extract_audio(path: Path) -> bytes:
    """The first audio stream of `path` as an MP4 file: its packets where MP4 allows the codec, else AAC.

    Time 0 is the first frame of the video. Raises VideoError when the audio can't be copied.
    """
    buffer = BytesIO()
    try:
        with av.open(buffer, "w", format="mp4") as output, closing(AudioCopier(path, output)) as audio:
            audio.write_until(None)
    except READ_ERRORS as error:
        raise VideoError(f"The sound of {path} can't be copied ({first_line(error)}); remove it.") from None
    return buffer.getvalue()


class AudioCopier:
    """Copies the first audio stream of `source`, if there is one, into `output`, or encodes it as AAC.

    The first frame of the source's video is at `delay` (seconds, at least 0) in the output. Audio after a
    damaged place is lost. Raises VideoError when `source` can't be opened.
    """

    def __init__(self, source: Source, output: OutputContainer, delay: Fraction = Fraction(0)) -> None:
        self._input = open_input(source)
        self._output = output
        self._next: av.Packet | None = None
        self._packets: Iterator[av.Packet] = iter(())
        video = video_stream(self._input)
        start = Fraction(0) if video is None else (video.start_time or 0) * time_base(video)
        self._shift = start - delay  # seconds by which the output is earlier than the source
        if self._input.streams.audio:
            stream = self._input.streams.audio[0]
            self._packets = self._copied(stream) if _can_copy(stream, output) else self._encoded(stream)
            self._next = next(self._packets, None)

    def write_until(self, seconds: float | None) -> None:
        """Write the packets that begin before `seconds`; None writes all that are left."""
        while self._next is not None:
            if seconds is not None and self._next.pts * self._next.time_base >= seconds:
                return
            self._output.mux(self._next)
            self._next = next(self._packets, None)

    def close(self) -> None:
        """Close the source."""
        self._input.close()

    def _copied(self, stream: AudioStream) -> Iterator[av.Packet]:
        target = self._output.add_stream_from_template(stream)
        for packet in self._demux(stream):
            parts = ceil(packet.time_base * TICKS)  # AVI counts in whole packets, too coarse for a shift
            packet.pts = packet.pts * parts - round(self._shift / packet.time_base * parts)
            packet.dts, packet.duration = packet.pts, packet.duration * parts
            packet.time_base /= parts
            packet.stream = target
            yield packet

    def _encoded(self, stream: AudioStream) -> Iterator[av.Packet]:
        source = stream.codec_context
        rate = min((r for r in AAC_RATES if r >= source.sample_rate), default=AAC_RATES[-1])
        layout = "mono" if source.layout.nb_channels == 1 else "stereo"
        target = self._output.add_stream("aac", rate=rate, layout=layout, bit_rate=192_000)
        resampler = AudioResampler(format="fltp", layout=layout, rate=rate)
        for packet in self._demux(stream):
            try:
                frames = [part for frame in packet.decode() for part in resampler.resample(frame)]
            except READ_ERRORS:
                return
            for frame in frames:
                assert frame.pts is not None and frame.time_base is not None
                frame.pts -= round(self._shift / frame.time_base)
                yield from target.encode(frame)
        yield from target.encode()

    def _demux(self, stream: AudioStream) -> Iterator[av.Packet]:
        """The packets of the stream, up to the first damage."""
        with suppress(*READ_ERRORS):
            for packet in self._input.demux(stream):
                if packet.size == 0 or packet.is_corrupt or packet.pts is None:
                    return
                yield packet


def _can_copy(stream: AudioStream, output: OutputContainer) -> bool:
    codec, container = stream.codec_context.name, output.format.name
    raw_in_mp4 = codec.startswith("pcm_") and container == "mp4"  # hardly any player takes it
    return codec in output.supported_codecs and codec not in REFUSED[container] and not raw_in_mp4
