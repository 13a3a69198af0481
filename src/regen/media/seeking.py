"""Seeker: the frames at given times, with as little decoding as possible."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import chain
from types import TracebackType

import av

from regen.media.decoding import Decoder, time_base
from regen.media.files import Source, VideoError

TIME_TOLERANCE = 1e-3  # seconds; Matroska rounds its times to milliseconds
SEEK_AHEAD = 2.0  # seconds; over a longer gap it seeks, through a shorter one it decodes
SEEK_BACK = (0.0, 2.0, 10.0)  # seconds; tried in turn when a seek lands after its target

TimedFrame = tuple[av.VideoFrame, float]


class Seeker:
    """The frames of a video by their times in seconds after the first frame. A context manager.

    Call `decode_first` or `locate_first` first. Raises VideoError when `path` can't be opened.
    """

    def __init__(self, path: Source, threads: int) -> None:
        self.path, self._threads = path, threads
        self.decoder = Decoder(path, threads)
        stream = self.decoder.stream
        self.frame_rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        self.time_base = time_base(stream)
        # AVI has no presentation times; where frames are reordered, those that FFmpeg guesses are wrong.
        reordered = stream.codec_context.has_b_frames
        self.is_untimed = self.decoder.container.format.name == "avi" and bool(reordered)
        self.start = 0  # of the first frame, in ticks
        self._opened: Iterator[av.VideoFrame] = iter(())

    def __enter__(self) -> "Seeker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.decoder.container.close()

    def decode_first(self) -> av.VideoFrame:
        """Decode the first frame. Raises VideoError when not a single one can be decoded."""
        frames = self.decoder.decode()
        first = next(frames, None)
        if first is None:
            self.close()
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
        """Each frame with its time; without one in the file, one frame duration after the last."""
        step = float(1 / self.frame_rate)
        time = -step
        up, down = self.time_base.numerator, self.time_base.denominator
        for frame in frames:
            if self.is_untimed or frame.pts is None:
                time += step
            else:
                time = (frame.pts - self.start) * up / down
            yield frame, time

    def frames_starting_at(self, times: Sequence[float]) -> list[av.VideoFrame]:
        """The frames that begin at the rising `times` of frames; decodes little else.

        Empty when one of them can't be found or is damaged.
        """
        if self.is_untimed or not self.decoder.seek(self._ticks(times[0] + TIME_TOLERANCE)):
            return []
        ticks = [self.start + round(time / self.time_base) for time in times]
        tolerance = round(TIME_TOLERANCE / self.time_base)
        found: list[av.VideoFrame] = []
        for frame in self.decoder.until_damage(self.decoder.decode_only(ticks, tolerance), after_seek=True):
            while len(found) < len(ticks) and abs(ticks[len(found)] - frame.pts) <= tolerance:
                found.append(frame)
            if len(found) == len(ticks):
                return found
        return []

    def frames_shown_at(self, times: Sequence[float]) -> Iterator[av.VideoFrame]:
        """The frames shown at the sorted `times`, the same object for times of the same frame.

        Raises VideoError when a frame that is needed can't be decoded.
        """
        shown = following = None
        frames: Iterator[TimedFrame] = iter(())
        for time in times:
            if shown is None or time - shown[1] > SEEK_AHEAD:
                frames = self._frames_from(time)
                shown, following = next(frames), next(frames, None)
            while following is not None and following[1] <= time + TIME_TOLERANCE:
                shown, following = following, next(frames, None)
            self._require_undamaged(time, shown[1], following is None)
            yield shown[0]

    def _frames_from(self, time: float) -> Iterator[TimedFrame]:
        """Frames in display order, from one at or before `time`; from the first one if need be."""
        begun, self._opened = self.with_times(self._opened), iter(())
        if self.decoder.is_in_first_group(self._ticks(time)):
            first = next(begun, None)
            if first is not None:
                return chain([first], begun)
        for back in SEEK_BACK:
            if self.is_untimed or time - back <= 0 or not self.decoder.seek(self._ticks(time - back)):
                break
            frames = self.with_times(self.decoder.until_damage(self.decoder.decode(), after_seek=True))
            first = next(frames, None)
            if first is not None and first[0].pts is not None and first[1] <= time + TIME_TOLERANCE:
                return chain([first], frames)
        self.close()
        self.decoder = Decoder(self.path, self._threads)
        frames = self.with_times(self.decoder.until_damage(self.decoder.decode(), after_seek=False))
        first = next(frames, None)
        if first is None:
            raise VideoError(f"{self.path} is damaged; not a single frame can be decoded any more.")
        return chain([first], frames)

    def _ticks(self, time: float) -> int:
        return self.start + int(time / self.time_base)

    def _require_undamaged(self, time: float, start: float, is_last: bool) -> None:
        """Raises VideoError when damage hides the frame at `time`; the nearest one begins at `start`."""
        late = is_last and time - start > float(1 / self.frame_rate) + TIME_TOLERANCE
        if self.decoder.errors and (late or time < start - TIME_TOLERANCE):
            raise VideoError(f"{self.path} is damaged at {time:.2f} seconds; copy or record it again.")


def _decode_from(decoder: Decoder, ticks: int) -> Iterator[av.VideoFrame]:
    """The frames from the key frame at `ticks` on. Not a method: a cycle would keep the Seeker alive."""
    if decoder.seek(ticks):
        yield from decoder.until_damage(decoder.decode(), after_seek=True)
