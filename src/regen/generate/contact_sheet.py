"""Contact sheets: a row of frames and a caption for each video."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from regen.io import atomic_path

FRAMES = 5  # of each video, evenly spaced
MAX_ROWS = 6  # more videos are shown in two columns
GAP, GREY = 6, (235, 235, 235)


def write_contact_sheet(path: Path, videos: Iterable[tuple[UInt8[Tensor, "t h w 3"], str]]) -> None:
    """Write an image (its format follows from the suffix) of videos of one size with their captions."""
    strips = [(_strip(video), caption) for video, caption in videos]
    width, height = strips[0][0].size
    texts = [_wrap(caption, width) for _, caption in strips]
    font = ImageFont.load_default()
    lines = max(len(text) for text in texts)
    line = sum(font.getmetrics()) if isinstance(font, ImageFont.FreeTypeFont) else 11
    columns = 2 if len(strips) > MAX_ROWS else 1
    rows = -(-len(strips) // columns)
    step = width + GAP, height + lines * line + GAP
    sheet = Image.new("RGB", (columns * step[0] + GAP, rows * step[1] + GAP), GREY)
    draw = ImageDraw.Draw(sheet)
    for number, ((strip, _), text) in enumerate(zip(strips, texts, strict=True)):
        left, top = GAP + number // rows * step[0], GAP + number % rows * step[1]
        sheet.paste(strip, (left, top))
        for index, words in enumerate(text):
            draw.text((left, top + height + index * line), words, (0, 0, 0), font)
    with atomic_path(path) as temporary:
        sheet.save(temporary, Image.registered_extensions()[path.suffix.lower()])


def _strip(video: UInt8[Tensor, "t h w 3"]) -> Image.Image:
    picked = np.linspace(0, len(video) - 1, FRAMES).round().astype(int)
    return Image.fromarray(rearrange(video[picked], "t h w c -> h (t w) c").contiguous().numpy())


def _wrap(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` pixels, without splitting words."""
    font, lines = ImageFont.load_default(), [""]
    for word in text.encode("latin-1", errors="replace").decode("latin-1").split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
