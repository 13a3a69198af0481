"""Previews: a linear map from latents to small frames, fitted to a model and kept in its config.

The frames have the resolution of the latents: a latent stands for a square of pixels in a few frames, the
preview has one pixel for it in each of them. Three maps make them. `image` takes the c values of an image;
`start` takes those of the first two latent frames of a chunk (for REGEN content and motion) to its first
1 + k frames; `rest` takes those of latent frames i - 1 and i to k more. 1D latents are not used.
"""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from regen.embedders.clips import pad
from regen.latents import Latents
from regen.networks.linear import LeastSquares

DIGITS = 4  # of a factor in the config
RgbFactors = dict[str, list[str]]
"""By map, the rows of a matrix "f d" as text, which keeps config.json short: d colours, frame after frame,
for each of f values, the last of which is the constant 1."""


@runtime_checkable
class HasLatents(Protocol):
    """What the fit needs of an embedder."""

    @property
    def device(self) -> torch.device: ...

    @property
    def spatial_compression_ratio(self) -> int: ...

    def encode(self, video: Tensor) -> Any: ...


@torch.no_grad()
def fit_rgb_factors(
    model: HasLatents,
    clips: Iterable[Float[Tensor, "_ 3 t _ _"]],
    average: Callable[[list[Tensor]], None] = lambda tensors: None,
) -> RgbFactors:
    """The maps of a model by least squares on chunks, and on their first frames as images; RGB in [-1, 1].

    `average` replaces sums by their means over the processes, if several share the clips. Raises ValueError
    when there are none.
    """

    def encode(video: Float[Tensor, "_ 3 t _ _"]) -> Float[Tensor, "_ c n _ _"]:
        return Latents.of(model.encode(video.to(model.device)).latent_dist.mode()).grid

    fit = _RgbFit(model.spatial_compression_ratio)
    for clip in clips:
        for video in (clip[:, :, :1], clip):
            fit.add(encode(video), video)
    return fit.factors(average)


@torch.no_grad()
def fit_rgb_pairs(
    pairs: Iterable[tuple[Float[Tensor, "_ c n _ _"], Float[Tensor, "_ 3 t _ _"]]],
    spatial_compression_ratio: int,
    average: Callable[[list[Tensor]], None] = lambda tensors: None,
) -> RgbFactors:
    """The same from the latents of chunks, of which the first are those of images, and the chunks."""
    fit = _RgbFit(spatial_compression_ratio)
    for latents, clip in pairs:
        fit.add(latents[:, :, :1], clip[:, :, :1])
        fit.add(latents, clip)
    return fit.factors(average)


class _RgbFit:
    def __init__(self, spatial_compression_ratio: int) -> None:
        self.side, self.fits = spatial_compression_ratio, dict[str, LeastSquares]()

    def add(self, grid: Float[Tensor, "b c n y x"], video: Float[Tensor, "b 3 t _ _"]) -> None:
        targets = small_frames(video.float(), self.side)
        sizes = _frames_of_maps(video.shape[2], grid.shape[2])
        for (name, inputs), target in zip(_inputs(grid), targets.split(sizes, dim=2), strict=True):
            colours = rearrange(target, "b c t y x -> (b y x) (t c)")
            fit = self.fits.setdefault(name, LeastSquares(inputs.shape[-1], colours.shape[-1]))
            fit.add(inputs.flatten(0, 2), colours)

    def factors(self, average: Callable[[list[Tensor]], None]) -> RgbFactors:
        if not self.fits:
            raise ValueError("A preview must be fitted to at least one chunk, got none; give more data.")
        average([part for fit in self.fits.values() for part in (fit.features, fit.products)])
        return {name: [_text(row) for row in fit.solve().tolist()] for name, fit in self.fits.items()}


def _text(row: list[float]) -> str:
    return " ".join(f"{value:.{DIGITS}g}" for value in row)


def small_frames(
    video: Float[Tensor, "b 3 t h w"], spatial_compression_ratio: int
) -> Float[Tensor, "b 3 t y x"]:
    """The mean colours of the squares of pixels that latents stand for."""
    padded = pad(video, video.shape[2], spatial_compression_ratio)
    s = spatial_compression_ratio
    return reduce(padded, "b c t (y s1) (x s2) -> b c t y x", "mean", s1=s, s2=s)


def to_rgb(factors: RgbFactors, grid: Float[Tensor, "b c n y x"]) -> Float[Tensor, "b 3 t y x"]:
    """The small frames of chunks or images, in [-1, 1]. Raises ValueError for damaged factors."""
    frames, weights = [], {}
    for name, inputs in _inputs(grid):
        if name not in weights:
            weights[name] = _matrix(factors, name, inputs.shape[-1]).to(grid.device)
        frames.append(rearrange(inputs @ weights[name], "b y x (t c) -> b c t y x", c=3))
    return torch.cat(frames, dim=2).clamp(-1, 1)


def _matrix(factors: RgbFactors, name: str, height: int) -> Float[Tensor, "f d"]:
    try:
        matrix = torch.tensor([[float(value) for value in row.split()] for row in factors[name]])
        fits = matrix.ndim == 2 and len(matrix) == height and matrix.shape[1] % 3 == 0
    except (KeyError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            f"latent_rgb_factors of the config must have {height} rows of numbers for {name!r}; fit them "
            "again with regen fit-preview."
        )
    return matrix


def _inputs(grid: Float[Tensor, "b c n y x"]) -> list[tuple[str, Float[Tensor, "b y x _"]]]:
    """The maps that make the frames of a chunk or an image, one after another, and what they take."""
    latents = rearrange(grid.float(), "b c n y x -> n b y x c")
    ones = torch.ones_like(latents[0, ..., :1])
    if len(latents) == 1:
        return [("image", torch.cat([latents[0], ones], dim=-1))]
    pairs = [torch.cat([*pair, ones], dim=-1) for pair in pairwise(latents)]
    return [("rest" if i else "start", pair) for i, pair in enumerate(pairs)]


def _frames_of_maps(frames: int, latent_frames: int) -> list[int]:
    """The frames that each map of a chunk or an image makes."""
    if latent_frames == 1:
        return [1]
    k = (frames - 1) // (latent_frames - 1)
    return [1 + k, *[k] * (latent_frames - 2)]
