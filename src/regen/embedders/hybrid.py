"""HybridAutoencoder: latents of two kinds, the second of adaptive length (One-DVA; spec B2 to B4)."""

from collections.abc import Callable
from math import isqrt

import torch
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from regen.embedders.base import VideoAutoencoder
from regen.latents import LatentPosterior, Latents
from regen.networks.hybrid_decoder import HybridDecoder
from regen.networks.length_rule import LengthMode, MotionLengthRule
from regen.networks.patches import Patches
from regen.networks.query_encoder import QueryEncoder
from regen.tiling import Tile, Tiling, crop

RegionTokens = tuple[
    Float[Tensor, "b c _"], Bool[Tensor, "b _"]
]  # 1D latents of a region, and which are there


class HybridAutoencoder(VideoAutoencoder):
    """An embedder with structural and 1D latents, whose picture may fall into regions.

    The rows of `latents_mean` and `latents_std` are those of the structural and of the 1D latents.
    """

    encoder: QueryEncoder
    decoder: HybridDecoder
    patches: Patches
    length_rule: MotionLengthRule

    @property
    def spatial_compression_ratio(self) -> int:
        return self.config.spatial_compression_ratio

    @property
    def chunk_frames(self) -> int:
        """Frames of a chunk."""
        return self.config.chunk_frames

    def regions(self, frames: int, height: int, width: int) -> Tiling:
        """The regions of a clip's picture that have 1D latents of their own, in patches."""
        n, y, x = self.patches.grid(frames, height, width)
        side = self.config.region_size or max(y, x)
        if n * min(y, side) * min(x, side) > self.config.num_queries:
            side = max(1, isqrt(self.config.num_queries // n))
        return Tiling.non_overlapping(y, x, side)

    def budgets(self, frames: int, height: int, width: int) -> list[int]:
        """The most 1D latents that each region of such a clip can have: one for each patch (spec B3)."""
        n = self.patches.grid(frames, height, width)[0]
        boxes = self.regions(frames, height, width).boxes
        return [n * (bottom - top) * (right - left) for (top, bottom), (left, right) in boxes]

    def region_clips(self, video: Float[Tensor, "b 3 t h w"]) -> list[Float[Tensor, "b 3 t _ _"]]:
        """The pixels of each region."""
        boxes, side = self.regions(*video.shape[2:]).boxes, self.patches.side
        return [crop(video, box, side) for box in boxes]

    def lengths(self, video: Float[Tensor, "b 3 t h w"]) -> Int64[Tensor, "b r"]:
        """How many 1D latents each region of a clip gets by its motion (spec B4)."""
        pairs = zip(self.region_clips(video), self.budgets(*video.shape[2:]), strict=True)
        return torch.stack([self.length_rule.max_length(clip, budget) for clip, budget in pairs], dim=1)

    def sample_lengths(
        self,
        video: Float[Tensor, "b 3 t h w"],
        generators: list[torch.Generator],
        mode: LengthMode,
        keep_all_prob: float,
    ) -> Int64[Tensor, "b r"]:
        """Lengths for training (see `MotionLengthRule.sample`): what tail dropout leaves to each region."""
        pairs = zip(self.region_clips(video), self.budgets(*video.shape[2:]), strict=True)
        drawn = [
            self.length_rule.sample(clip, budget, generators, mode, keep_all_prob) for clip, budget in pairs
        ]
        return torch.stack(drawn, dim=1)

    def shared_length(self, length: int, frames: int, height: int, width: int) -> Int64[Tensor, " r"]:
        """`length` 1D latents for a clip, shared out among its regions by their budgets.

        Raises ValueError when there are not so many.
        """
        budgets = self.budgets(frames, height, width)
        total = sum(budgets)
        if not 0 <= length <= total:
            raise ValueError(f"A clip of this size has 0 to {total} 1D latents, not {length}.")
        return (torch.tensor([0, *budgets]).cumsum(0) * length // total).diff()

    @apply_forward_hook
    def encode(
        self,
        video: Float[Tensor, "b 3 t h w"],
        return_dict: bool = True,
        tile: Tile | None = None,
        length: int | None = None,
    ) -> AutoencoderKLOutput | tuple[LatentPosterior]:
        """A clip of up to `chunk_frames` frames, or an image, to normalised latents (spec B2).

        `video` is RGB in [-1, 1], of any size; what does not divide into patches is padded.
        `.latent_dist.mode()` are `Latents`. `length` is the number of 1D latents of each clip, shared
        out among the regions by their size; None: as many as the motion of each region asks for. Those of a
        smaller length are the first ones of a larger. `tile` bounds how many regions are worked on at once.
        Raises ValueError for more frames than a chunk has, or a length beyond the budget.
        """
        size = video.shape[2:]
        if size[0] > self.chunk_frames:
            raise ValueError(
                f"A chunk has up to {self.chunk_frames} frames, not {size[0]}; regen.codec splits any video."
            )
        if length is None:
            lengths = self.lengths(video)
        else:
            lengths = self.shared_length(length, *size).to(video.device).expand(len(video), -1)
        posterior = self._posterior(video.to(self.dtype), lengths, True, tile or self.tile)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def _posterior(
        self,
        video: Float[Tensor, "b 3 t h w"],
        lengths: Int64[Tensor, "b r"],
        normalised: bool,
        tile: Tile | None = None,
    ) -> LatentPosterior:
        tiling, padded = self.regions(*video.shape[2:]), self.patches.pad(video)

        def encode(group: list[int]) -> tuple[Tensor, Tensor]:
            return self.encoder(_stacked(padded, tiling, group, self.patches.side))

        grids, parts = _by_region(encode, tiling, self._at_once(tile, tiling))
        structural = tiling.blend(grids, 1)
        if normalised:
            structural, parts = self._normal(structural, 0), [self._normal(part, 1) for part in parts]
        return LatentPosterior(structural, parts, lengths, self.latent_channels)

    def _decode_regions(
        self,
        noisy: Float[Tensor, "b 3 T H W"],
        t: Float[Tensor, " #b"],
        structural: Float[Tensor, "b c n y x"],
        parts: list[RegionTokens],
        tiling: Tiling,
        max_batch: int,
    ) -> tuple[Float[Tensor, "b 3 T H W"], Float[Tensor, "b d n y x"]]:
        """Prediction and features of the decoder for the whole picture, `max_batch` regions at a time."""
        side = self.patches.side

        def decode(group: list[int]) -> tuple[Tensor, Tensor]:
            noise, grid = _stacked(noisy, tiling, group, side), _stacked(structural, tiling, group, 1)
            longest = max(parts[number][0].shape[2] for number in group)
            filled = [[F.pad(one, (0, longest - one.shape[-1])) for one in parts[number]] for number in group]
            sequence, keep = (torch.cat(list(one)) for one in zip(*filled, strict=True))
            level = t if len(t) == 1 else t.repeat(len(group))
            return self.decoder(noise, grid, sequence, keep, level)

        features, repa = _by_region(decode, tiling, max_batch)
        return self.decoder.to_pixels(tiling.blend(features, side), structural), tiling.blend(repa, 1)

    def _check_latents(self, latents: Latents) -> None:
        n, y, x = latents.shape[2:]
        side, frames = self.patches.side, 1 + (n - 1) * self.patches.frames
        budgets = self.budgets(frames, y * side, x * side)
        wrong = latents.shape[1] != self.latent_channels or frames > self.chunk_frames
        if wrong or latents.lengths.shape[1] != len(budgets):
            raise ValueError(
                f"These latents don't fit this model: for {n} x {y} x {x} patches it has "
                f"{self.latent_channels} channels and {len(budgets)} regions, not {latents.shape[1]} and "
                f"{latents.lengths.shape[1]}."
            )
        if bool((latents.lengths.cpu() > torch.tensor(budgets)).any()):
            raise ValueError(f"A region keeps more 1D latents than the {max(budgets)} that it can have.")

    def _normal(self, moments: Float[Tensor, "b m ..."], kind: int) -> Float[Tensor, "b m ..."]:
        """Means less their mean, over their deviation; log variances to match. `kind`: 0 structural, 1 1D."""
        mean, std = self._statistics_of(kind, moments)
        centre, *log_variance = moments.float().split(self.latent_channels, dim=1)
        parts = [(centre - mean) / std, *(value - 2 * std.log() for value in log_variance)]
        return torch.cat(parts, dim=1).to(moments.dtype)

    def _raw_of(self, latents: Float[Tensor, "b c ..."], kind: int) -> Float[Tensor, "b c ..."]:
        """The inverse of `_normal`, for latents."""
        mean, std = self._statistics_of(kind, latents)
        return (latents.float() * std + mean).to(self.dtype)

    def _raw_parts(self, latents: Latents) -> tuple[Float[Tensor, "b c n y x"], list[RegionTokens]]:
        """Raw structural latents, and the raw 1D latents of each region."""
        parts = [(self._raw_of(sequence, 1), keep) for sequence, keep in latents.regions()]
        return self._raw_of(latents.grid, 0), parts

    def _statistics_of(self, kind: int, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, *[1] * (like.ndim - 2))
        return self.latents_mean[kind].reshape(shape), self.latents_std[kind].reshape(shape)

    def _at_once(self, tile: Tile | None, tiling: Tiling) -> int:
        """How many regions to work on together: as many as have the area of the tile, or all."""
        if tile is None:
            return len(tiling.boxes)
        largest = max((bottom - top) * (right - left) for (top, bottom), (left, right) in tiling.boxes)
        return max(1, tile.height * tile.width // (largest * self.patches.side**2))


def _stacked(whole: Float[Tensor, "b ..."], tiling: Tiling, group: list[int], unit: int) -> Tensor:
    """Regions of a batch of pictures as a larger batch, region after region."""
    return torch.cat([crop(whole, tiling.boxes[number], unit) for number in group])


def _by_region(
    work: Callable[[list[int]], tuple[Tensor, Tensor]], tiling: Tiling, max_batch: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Both results of `work` for each region, in order; up to `max_batch` of one shape are one call."""
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for group in tiling.group_by_shape(max_batch):
        both = (answer.chunk(len(group)) for answer in work(group))
        found |= dict(zip(group, zip(*both, strict=True), strict=True))
    order = [found[number] for number in range(len(tiling.boxes))]
    return [one[0] for one in order], [one[1] for one in order]
