"""Original above, reconstruction below: one picture in which both can be compared."""

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

STRIP = 20  # pixels of a label; even, so that two of them keep the height even
GREY, WHITE = (32, 32, 32), (230, 230, 230)


class Comparison:
    """Stacks frames of one width: a label and the original, a label and the reconstruction."""

    def __init__(self, width: int, above: str, below: str) -> None:
        self.above, self.below = label(above, width), label(below, width)

    def stack(
        self, original: UInt8[Tensor, "h w 3"], reconstruction: UInt8[Tensor, "h w 3"]
    ) -> UInt8[Tensor, "h2 w 3"]:
        """Both frames in one of height 2 h + 2 `STRIP`."""
        return torch.cat([self.above, original, self.below, reconstruction])


def label(text: str, width: int) -> UInt8[Tensor, "h width 3"]:
    """A dark strip `width` pixels wide with `text` in it, cut off where it is too long."""
    strip = Image.new("RGB", (width, STRIP), GREY)
    ImageDraw.Draw(strip).text((4, 3), text, fill=WHITE, font=ImageFont.load_default(12))
    return torch.from_numpy(np.array(strip))
