"""Seeking: the frames of a video by their times, with little decoding."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from itertools import chain

import av
import numpy as np
from jaxtyping import Float64

from regen.media.decoding import Decoder, average_rate, time_base
from regen.media.files import Source, VideoError

TIME_TOLERANCE = 1e-3  # seconds; Matroska rounds its times to milliseconds
SEEK_AHEAD = 2.0  # seconds; over a longer gap it seeks, through a shorter one it decodes
SEEK_BACK = (0.0, 2.0, 10.0)  # seconds; tried in turn when a seek lands after its target
STREAMS = ("mpegts", "mpeg")  # formats that may be concatenated, so that their clock restarts
STEP_BACK = 1.5  # frames; times that go back further are of a clock that has restarted

TimedFrame = tuple[av.VideoFrame, float]


class Seeker:
    """The frames of a video by their times in seconds after the first one, with little decoding.

    Call `decode_first` or `locate_first` first. Raises VideoError when `path` can't be opened.
    """

    def __init__(self, path: Source, threads: int) -> None:
        self.path, self._threads = path, threads
        self.decoder = Decoder(path, threads)
        stream = self.decoder.stream
        self.frame_rate = average_rate(stream)
        self.time_base = time_base(stream)
        # AVI has no presentation times; where frames are reordered, those that FFmpeg guesses are wrong.
        reordered = stream.codec_context.has_b_frames
        kind = self.decoder.container.format.name
        self.is_untimed = kind == "avi" and bool(reordered)
        rate_is_known = kind not in STREAMS
        half = float(1 / (2 * self.frame_rate)) if rate_is_known else TIME_TOLERANCE
        self.tolerance = min(TIME_TOLERANCE, half)  # seconds
        self.restarts = 0  # of the clock, found while reading
        self.start = 0  # of the first frame, in ticks
        self._opened: Iterator[av.VideoFrame] = iter(())

    @cached_property
    def is_seekable(self) -> bool:
        """Whether each time of the file belongs to one frame."""
        if self.is_untimed or self.decoder.container.format.name not in STREAMS:
            return not self.is_untimed
        with Decoder(self.path, self._threads) as decoder:
            return sum(1 for _ in _between_restarts(decoder, self.frame_rate)) <= 1

    def close(self) -> None:
        self.decoder.container.close()

    def decode_first(self) -> av.VideoFrame:
        """Decode the first frame. Raises VideoError when not a single one can be decoded."""
        frames = self.decoder.decode()
        first = next(frames, None)
        if first is None:
            self.close()
            if self.decoder.is_encrypted:
                raise VideoError(f"{self.path} is encrypted; give a copy without encryption.")
            raise VideoError(f"Not a single frame of {self.path} can be decoded; it is empty or damaged.")
        start = self.decoder.stream.start_time if self.decoder.errors else None  # the first may be lost
        self.start = (first.pts if start is None else start) or 0
        self._opened = self.decoder.until_damage(chain([first], frames), after_seek=False)
        return first

    def locate_first(self) -> None:
        """Find the time of the first frame, from packets where possible, else by decoding it."""
        start = self.decoder.first_pts()
        if start is None:
            self.close()
            self.decoder = Decoder(self.path, self._threads)
            self.decode_first()
        else:
            self.start, self._opened = start, _decode_from(self.decoder, start)

    def with_times(self, frames: Iterator[av.VideoFrame]) -> Iterator[TimedFrame]:
        """Each frame with its time; without one in the file, one frame duration after the last.

        So is a frame with a time before the last one, where the clock restarts.
        """
        step = float(1 / self.frame_rate)
        time, offset, self.restarts = -step, 0.0, 0
        up, down = self.time_base.numerator, self.time_base.denominator
        for number, frame in enumerate(frames):
            following = time + step
            if not self.is_untimed and frame.pts is not None:
                found = (frame.pts - self.start) * up / down + offset
                if number and found < time - STEP_BACK * step:
                    self.restarts += 1
                    offset += following - found
                else:
                    following = found
            time = following
            yield frame, time

    def packet_times(self) -> Float64[np.ndarray, " t"]:
        """The time of every frame in seconds, rising, from packets without decoding; see `with_times`."""
        step, ends = float(1 / self.frame_rate), -np.inf
        parts: list[np.ndarray] = []
        with Decoder(self.path, self._threads) as decoder:
            for part in _between_restarts(decoder, self.frame_rate):
                known = np.array([tick for tick in part if tick is not None], dtype=np.float64)
                if len(known) < len(part):
                    times = max(ends, -step) + step * np.arange(1, len(part) + 1)
                else:
                    times = np.unique((known - self.start) * float(self.time_base))
                    times += ends + step - times[0] if parts else 0.0
                parts.append(times)
                ends = times[-1]
        return np.concatenate([np.empty(0), *parts])

    def frames_starting_at(self, times: Sequence[float]) -> list[av.VideoFrame]:
        """The frames that begin at the rising `times`; empty when one is missing or damaged."""
        if not self.is_seekable or not self.decoder.seek(self._ticks(times[0] + self.tolerance)):
            return []
        ticks = [self.start + round(time / self.time_base) for time in times]
        tolerance = round(self.tolerance / self.time_base)
        found: list[av.VideoFrame] = []
        for frame in self.decoder.until_damage(self.decoder.decode_only(ticks, tolerance), after_seek=True):
            while len(found) < len(ticks) and abs(ticks[len(found)] - frame.pts) <= tolerance:
                found.append(frame)
            if len(found) == len(ticks):
                return found
        return []

    def frames_shown_at(self, times: Sequence[float]) -> Iterator[av.VideoFrame]:
        """The frames at sorted `times`, one object per frame. Raises VideoError when one can't be decoded."""
        shown = following = None
        frames: Iterator[TimedFrame] = iter(())
        for time in times:
            if shown is None or time - shown[1] > SEEK_AHEAD:
                frames = self._frames_from(time)
                shown, following = next(frames), next(frames, None)
            while following is not None and following[1] <= time + self.tolerance:
                shown, following = following, next(frames, None)
            late = following is None and time - shown[1] > float(1 / self.frame_rate) + self.tolerance
            if self.decoder.errors and (late or time < shown[1] - self.tolerance):
                raise VideoError(f"{self.path} is damaged at {time:.2f} seconds; copy or record it again.")
            yield shown[0]

    def _frames_from(self, time: float) -> Iterator[TimedFrame]:
        """Frames in display order, from one at or before `time`; from the first one if need be."""
        begun, self._opened = self.with_times(self._opened), iter(())
        if self.decoder.is_in_first_group(self._ticks(time)):
            first = next(begun, None)
            if first is not None:
                return chain([first], begun)
        for back in SEEK_BACK:
            if not self.is_seekable or time - back <= 0 or not self.decoder.seek(self._ticks(time - back)):
                break
            frames = self.with_times(self.decoder.until_damage(self.decoder.decode(), after_seek=True))
            first = next(frames, None)
            if first is not None and first[0].pts is not None and first[1] <= time + self.tolerance:
                return chain([first], frames)
        self.close()
        self.decoder = Decoder(self.path, self._threads)
        decoded = self.decoder.decode()
        if self.is_seekable or self.is_untimed:  # where a clock restarts, a packet counts as damaged
            decoded = self.decoder.until_damage(decoded, after_seek=False)
        frames = self.with_times(decoded)
        first = next(frames, None)
        if first is None:
            raise VideoError(f"{self.path} is damaged; not a single frame can be decoded any more.")
        return chain([first], frames)

    def _ticks(self, time: float) -> int:
        return self.start + int(time / self.time_base)


def _decode_from(decoder: Decoder, ticks: int) -> Iterator[av.VideoFrame]:
    """The frames from the key frame at `ticks` on. Not a method: a cycle would keep the Seeker alive."""
    if decoder.seek(ticks):
        yield from decoder.until_damage(decoder.decode(), after_seek=True)


def _between_restarts(decoder: Decoder, frame_rate: Fraction) -> Iterator[list[int | None]]:
    """The times of all shown packets in ticks, one list for each run of the clock."""
    ticks: list[int | None] = []
    last: int | None = None
    margin = STEP_BACK / frame_rate / time_base(decoder.stream)
    for packet in decoder.demux():
        if packet.size and not packet.is_discard:
            if last is not None and packet.dts is not None and packet.dts < last - margin:
                yield ticks
                ticks = []
            last = packet.dts
            ticks.append(packet.pts)
    if ticks:
        yield ticks
