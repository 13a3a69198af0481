"""High dynamic range and wide gamuts, shown as BT.709: transfer curves, primaries, tone mapping.

Light is relative to diffuse white, 203 cd/m2 of PQ (ITU-R BT.2408), which is what 1 means.
"""

from functools import lru_cache

import av
import numpy as np
from av.video.reformatter import ColorRange
from jaxtyping import Float, Float64, UInt8, UInt16

PQ, HLG = 16, 18  # FFmpeg's numbers of transfer curves
# Chromaticities of red, green and blue, all with the white of D65, by FFmpeg's numbers of primaries.
BT709, BT2020, DISPLAY_P3 = 1, 9, 12
PRIMARIES = {
    BT709: ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),
    BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    DISPLAY_P3: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
# Of red and blue, by FFmpeg's numbers of matrices.
LUMA_WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), BT2020: (0.2627, 0.0593)}
D65 = (0.3127, 0.3290)
LUMINANCE = np.array((0.2627, 0.6780, 0.0593), np.float32)  # of BT.2020
WHITE, HLG_PEAK, USUAL_PEAK, PQ_PEAK = 203.0, 1000.0, 1000.0, 10_000.0  # cd/m2
DISPLAY_GAMMA = 2.4  # BT.1886
KNEE = 0.7  # darker light keeps its value
MAX_LIGHT_LEVEL, MASTERING_DISPLAY = "CONTENT_LIGHT_LEVEL", "MASTERING_DISPLAY_METADATA"  # names of PyAV


def is_high_dynamic_range(frame: av.VideoFrame) -> bool:
    """Whether the values of a frame follow PQ or HLG."""
    return frame.color_trc in (PQ, HLG)


def needs_mapping(frame: av.VideoFrame) -> bool:
    """Whether a frame has another transfer curve or wider primaries than BT.709."""
    return is_high_dynamic_range(frame) or frame.color_primaries in (BT2020, DISPLAY_P3)


def peak_light(frame: av.VideoFrame) -> float:
    """The brightest light of a video in cd/m2, from the light level or the display that a frame names."""
    if frame.color_trc != PQ:
        return HLG_PEAK
    level, display = (frame.side_data.get(name) for name in (MAX_LIGHT_LEVEL, MASTERING_DISPLAY))
    found = 0.0
    if level is not None and len(bytes(level)) >= 4:
        found = float(np.frombuffer(bytes(level), np.uint32, 1)[0])
    if not found and display is not None and len(bytes(display)) >= 88:
        numbers = np.frombuffer(bytes(display), np.int32, 22)
        up, down, is_given = numbers[18], numbers[19], numbers[21]
        found = float(up / down) if is_given and down > 0 else 0.0
    return min(found, PQ_PEAK) if found > 0 else USUAL_PEAK


def yuv_to_rgb(yuv: UInt16[np.ndarray, "h w 3"], frame: av.VideoFrame) -> UInt16[np.ndarray, "h w 3"]:
    """RGB of YUV, both of 16 bits; matrix, range and bits are those of `frame`.

    FFmpeg itself is up to a level of 8 bits off here.
    """
    wide = frame.color_primaries == BT2020 or is_high_dynamic_range(frame)
    red, blue = LUMA_WEIGHTS.get(frame.colorspace, LUMA_WEIGHTS[BT2020 if wide else BT709])
    bits = frame.format.components[0].bits
    unit, largest = 1 << (bits - 8), (1 << bits) - 1
    values = yuv.astype(np.float32) / np.float32(256)
    if frame.color_range == ColorRange.JPEG:  # FFmpeg repeats the bits of such luma, and shifts all else
        luma, chroma = values[..., 0] * (256 / 65535), (values[..., 1:] - 128) * (unit / largest)
    else:
        luma, chroma = (values[..., 0] - 16) / 219, (values[..., 1:] - 128) / 224
    r, b = luma + chroma[..., 1] * (2 - 2 * red), luma + chroma[..., 0] * (2 - 2 * blue)
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return (np.stack([r, g, b], axis=-1).clip(0, 1) * 65535 + 0.5).astype(np.uint16)


class Bt709Mapper:
    """Maps RGB of 16 bits to BT.709 as a display of standard range shows it.

    `transfer` and `primaries` are FFmpeg's numbers, `peak` is the brightest light in cd/m2. Light is that on
    a display: PQ by SMPTE ST 2084, HLG by BT.2100 at 1000 cd/m2, else BT.1886. In high dynamic range, what is
    brighter than `KNEE` of diffuse white is compressed (see `compress`), with its hue. Colours outside of
    BT.709 are clipped.
    """

    def __init__(self, transfer: int, primaries: int, peak: float) -> None:
        self._transfer, self._peak = transfer, peak / WHITE
        self._is_high = transfer in (PQ, HLG)
        source = primaries if primaries in PRIMARIES else BT2020 if self._is_high else BT709
        self._matrix = (np.linalg.inv(_to_xyz(BT709)) @ _to_xyz(source)).astype(np.float32)

    def __call__(self, rgb: UInt16[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
        light = _curve(self._transfer)[rgb]
        if self._transfer == HLG:  # from the light of the scene to that of the display
            light *= ((light @ LUMINANCE) ** 0.2)[..., None] * np.float32(HLG_PEAK / WHITE)
        light = np.maximum(light @ self._matrix.T, 0)
        if self._is_high:
            brightest = light.max(axis=-1, keepdims=True)
            light *= compress(brightest, self._peak) / np.maximum(brightest, 1e-6)
        shown = np.minimum(light, 1) ** np.float32(1 / DISPLAY_GAMMA)
        return (shown * 255 + 0.5).astype(np.uint8)


def compress(light: Float[np.ndarray, "*shape"], peak: float) -> Float[np.ndarray, "*shape"]:
    """Light from 0 to `peak` of diffuse white to 0..1: as it is up to `KNEE`, then a hyperbola to (peak, 1).

    It is smooth: the slope at the knee is 1.
    """
    if peak <= 1:
        return np.minimum(light, 1)
    slope = (peak - KNEE) / (1 - KNEE)
    bend = 1 / (slope - 1)
    above = np.clip((light - KNEE) / (peak - KNEE), 0, 1)
    return np.where(light <= KNEE, light, KNEE + (1 - KNEE) * above * (1 + bend) / (above + bend))


@lru_cache(maxsize=4)
def _curve(transfer: int) -> Float[np.ndarray, " 65536"]:
    """The light of each value of 16 bits; for HLG that of the scene, from 0 to 1."""
    values = np.arange(1 << 16, dtype=np.float64) / 65535
    if transfer == PQ:
        root = values ** (1 / 78.84375)
        light = (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
        light *= PQ_PEAK / WHITE
    elif transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(values <= 0.5, values**2 / 3, (np.exp((values - c) / a) + b) / 12)
    else:
        light = values**DISPLAY_GAMMA
    return light.astype(np.float32)


def _to_xyz(primaries: int) -> Float64[np.ndarray, "3 3"]:
    """The matrix from linear RGB to XYZ."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in PRIMARIES[primaries]]).T
    x, y = D65
    return columns * np.linalg.solve(columns, (x / y, 1, (1 - x - y) / y))
