"""What is measured on the small frames of a video: shot cuts, motion, black bars, perceptual hashes."""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

ANALYSIS_SIDE = 64  # pixels of the short side of the frames that are looked at
SAMPLE_INTERVAL = 0.25  # seconds between two frames that motion, bars and hashes are taken from
HASH_SIDE = 16  # bits along each side of a perceptual hash
HASH_POSITIONS = (1 / 6, 1 / 2, 5 / 6)  # where in a video its hashes are taken
NOISE = 2.0  # of 255 levels; key frames of still pictures differ by as much
BLACK_LEVEL = 24.0  # of 255 levels; brighter is not black, also where black is stored as 16
MAX_LIT_IN_BAR = 0.02  # this share of a line may be lit in a black bar
MIN_LIT_AT_EDGE = 0.5  # a picture begins at a line that is lit so far, of the line that is lit most
MAX_BAR_DIFFERENCE = 2  # small pixels by which two opposite bars may differ


class CutFinder:
    """Shot cuts by PySceneDetect's AdaptiveDetector, which a moving camera does not mislead.

    `add` every frame in turn; `cuts` are the numbers of the frames that begin a shot. Raises ValueError when
    PySceneDetect is not installed.
    """

    def __init__(self, threshold: float) -> None:
        try:
            from scenedetect.common import FrameTimecode
            from scenedetect.detectors import AdaptiveDetector
        except ImportError as error:
            raise ValueError(
                f"Looking for shot cuts needs PySceneDetect ({error}); install it by pip install "
                '"regen[shards]", or do without by --cuts keep.'
            ) from None
        self._timecode = FrameTimecode
        self._detector = AdaptiveDetector(adaptive_threshold=threshold, min_scene_len=1)
        self._frames = 0
        self.cuts: list[int] = []

    def add(self, image: UInt8[np.ndarray, "h w 3"]) -> None:
        # The detector counts frames; the rate only turns their numbers into times, which are not used.
        timecode = self._timecode(self._frames, fps=25.0)
        found = self._detector.process_frame(timecode, image[..., ::-1])
        self.cuts += [one.frame_num for one in found]
        self._frames += 1


class Hasher:
    """Perceptual hashes by imagehash. Raises ValueError when it is not installed."""

    def __init__(self) -> None:
        try:
            from imagehash import phash
        except ImportError as error:
            raise ValueError(
                f"Looking for duplicates needs imagehash ({error}); install it by pip install "
                '"regen[shards]", or do without by --duplicates keep.'
            ) from None
        self._hash = phash

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> str:
        """256 bits of one picture, as hexadecimal digits."""
        bits = self._hash(Image.fromarray(image), hash_size=HASH_SIDE).hash
        return np.packbits(bits).tobytes().hex()


class FrameStats:
    """Motion, bars and hashes from a frame every quarter of a second; memory grows by 0.5 kB for each."""

    def __init__(self, hasher: Hasher | None) -> None:
        self._hasher = hasher
        self._next = 0.0
        self._grey: np.ndarray | None = None
        self.frames: list[int] = []
        self._changes: list[float] = []  # from the frame before; the first has none
        self._rows: list[np.ndarray] = []
        self._columns: list[np.ndarray] = []
        self._prints: list[str] = []

    def add(self, number: int, time: float, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """The next frame of the video; most are passed over."""
        if time < self._next - 1e-3:
            return
        self._next = time + SAMPLE_INTERVAL
        grey = image.mean(-1, dtype=np.float32)
        change = 0.0 if self._grey is None else np.maximum(np.abs(grey - self._grey) - NOISE, 0).mean()
        self._changes.append(float(change))
        self._grey = grey
        lit = grey > BLACK_LEVEL
        self._rows.append(lit.mean(1, dtype=np.float32))
        self._columns.append(lit.mean(0, dtype=np.float32))
        self._prints.append("" if self._hasher is None else self._hasher(image))
        self.frames.append(number)

    def motion(self, first: int, end: int) -> float | None:
        """By how many levels beyond noise pixels change between the frames looked at, on average.

        These are frames from number `first` to before `end`.
        None when fewer than two of them lie there.
        """
        a, b = np.searchsorted(self.frames, [first, end])
        return None if b - a < 2 else float(np.mean(self._changes[a + 1 : b]))

    def bars(self, first: int, end: int) -> float:
        """The part of the height or of the width, whichever is larger, that black bars take."""
        a, b = np.searchsorted(self.frames, [first, end])
        if a == b:
            return 0.0
        return max(bar_share(np.max(lines[a:b], axis=0)) for lines in (self._rows, self._columns))

    def hashes(self, first: int, end: int) -> list[str]:
        """Three hashes; none when they were not asked for."""
        a, b = np.searchsorted(self.frames, [first, end])
        if self._hasher is None or a == b:
            return []
        return [self._prints[a + round(part * (b - a - 1))] for part in HASH_POSITIONS]


def bar_share(lit: Float[np.ndarray, " n"]) -> float:
    """Which part of a picture's lines lies in a pair of black bars, given how far each line is lit at most.

    Bars are equally thick and end sharply, so a dark room or a planet in the night sky has none.
    """
    bright = np.flatnonzero(lit > MAX_LIT_IN_BAR)
    if len(bright) == 0:
        return 0.0
    before, after = int(bright[0]), len(lit) - 1 - int(bright[-1])
    if not before or not after or abs(before - after) > MAX_BAR_DIFFERENCE:
        return 0.0
    # A line may be half bar, half picture; the next one must be picture.
    inner = min(before + 1, len(lit) - 1), max(len(lit) - after - 2, 0)
    if min(lit[list(inner)]) < MIN_LIT_AT_EDGE * lit.max():
        return 0.0
    return (before + after) / len(lit)


def check_installed(cuts: bool, duplicates: bool, threshold: float) -> None:
    """Raises ValueError when what is needed is not installed."""
    if cuts:
        CutFinder(threshold)
    if duplicates:
        Hasher()
