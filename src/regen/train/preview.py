"""A picture of original clips above their reconstructions."""

from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor


def save_preview(
    path: Path,
    original: Float[Tensor, "b 3 t h w"],
    reconstruction: Float[Tensor, "b 3 t h w"],
    max_clips: int = 4,
) -> None:
    """Write a PNG: for each of the first `max_clips` clips a row of its frames, below it the reconstruction.

    Both inputs are RGB in [-1, 1]; values beyond are clipped.
    """
    pairs = torch.stack([original[:max_clips], reconstruction[:max_clips]]).detach().float().cpu()
    grid = rearrange(pairs, "pair b c t h w -> (b pair h) (t w) c")
    pixels = ((grid.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.numpy()).save(path, format="PNG")
