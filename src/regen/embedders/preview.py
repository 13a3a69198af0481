"""Previews: a linear map from latents to small frames, fitted to a model and kept in its config.

A latent stands for a square of pixels in a few frames; the preview has one pixel for it in each of them.
The map of latent frame i takes its c values and those of latent frame i - 1 to its k frames; the first map
(`start`) also gives the first frame of the chunk, and an image has a map of its own. 1D latents are not used.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from regen.latents import Latents

RIDGE = 1e-4  # of the mean square of a feature, so that constant channels of latents do no harm
DIGITS = 4  # of a weight in the config
Maps = dict[str, list[str]]  # rows "f d" of numbers as text, which keeps config.json short


@runtime_checkable
class HasLatents(Protocol):
    """What a preview needs of an embedder."""

    @property
    def device(self) -> torch.device: ...

    def encode(self, video: Tensor) -> Any: ...


class LinearFit:
    """Sums over pairs of features and targets, and the map of least squares between them."""

    def __init__(self) -> None:
        self.count, self.features, self.products = 0, torch.zeros(()), torch.zeros(())

    def add(self, features: Float[Tensor, "n f"], targets: Float[Tensor, "n d"]) -> None:
        features, targets = features.double().cpu(), targets.double().cpu()
        self.count += len(features)
        self.features = self.features + features.T @ features
        self.products = self.products + features.T @ targets

    def solve(self) -> list[str]:
        """The rows of the map "f d", rounded. Raises ValueError without pairs."""
        if self.count == 0:
            raise ValueError("A preview needs at least one chunk and one image to be fitted to.")
        ridge = RIDGE * self.features.diagonal().mean() * torch.eye(len(self.features), dtype=torch.float64)
        weights = torch.linalg.solve(self.features + ridge, self.products)
        return [" ".join(f"{value:.{DIGITS}g}" for value in row) for row in weights.tolist()]


def features(first: Float[Tensor, "b c y x"], *others: Float[Tensor, "b c y x"]) -> Float[Tensor, "b y x f"]:
    """The values of latent frames at each place, and 1."""
    parts = [*(part.float() for part in (first, *others)), torch.ones_like(first[:, :1], dtype=torch.float32)]
    return rearrange(torch.cat(parts, dim=1), "b f y x -> b y x f")


def pairs(grid: Float[Tensor, "b c n y x"]) -> list[tuple[str, Float[Tensor, "b y x f"]]]:
    """The maps that make the frames of a chunk or an image, one after another, and their features."""
    frames = grid.unbind(2)
    if len(frames) == 1:
        return [("image", features(frames[0]))]
    return [("rest" if i else "start", features(*pair)) for i, pair in enumerate(pairwise(frames))]


@torch.no_grad()
def fit_preview(model: HasLatents, clips: Iterable[Float[Tensor, "_ 3 t _ _"]]) -> Maps:
    """The maps of a model, of least squares on chunks in [-1, 1] and on their first frames as images.

    Sides of clips are multiples of the spatial ratio. Raises ValueError when there are none.
    """
    fits: dict[str, LinearFit] = {"image": LinearFit(), "start": LinearFit()}
    for clip in clips:
        for video in (clip[:, :, :1], clip):
            grid = Latents.of(model.encode(video.to(model.device)).latent_dist.mode()).grid
            small = F.adaptive_avg_pool3d(video.float(), (None, *grid.shape[3:])).to(grid.device)
            done = 0
            for name, inputs in pairs(grid):
                count = _frames_of(name, video.shape[2], grid.shape[2])
                targets = rearrange(small[:, :, done : done + count], "b c t y x -> (b y x) (t c)")
                fits.setdefault(name, LinearFit()).add(inputs.flatten(0, 2), targets)
                done += count
    return {name: fit.solve() for name, fit in fits.items()}


def _frames_of(name: str, frames: int, latent_frames: int) -> int:
    """Frames of one map in a chunk: k, one more for the first."""
    return 1 if name == "image" else (frames - 1) // (latent_frames - 1) + (name == "start")


def preview(maps: Maps, grid: Float[Tensor, "b c n y x"]) -> Float[Tensor, "b 3 t y x"]:
    """The small frames of a chunk or an image, in [-1, 1]."""
    parts = []
    for name, inputs in pairs(grid):
        rows = [[float(value) for value in row.split()] for row in maps[name]]
        colours = inputs @ torch.tensor(rows, device=grid.device)
        parts.append(rearrange(colours, "b y x (t c) -> b c t y x", c=3))
    return torch.cat(parts, dim=2).clamp(-1, 1)
