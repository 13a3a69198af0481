"""HybridAutoencoder: a grid of structural latents, and 1D latents of adaptive length."""

from collections.abc import Callable
from itertools import pairwise
from math import isqrt

import torch
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from regen.embedders.base import VideoAutoencoder
from regen.embedders.clips import check_latents, pad
from regen.latents import LatentPosterior, Latents
from regen.losses.one_dva import OneDVAObjective
from regen.networks.dit import Patches
from regen.networks.hybrid_decoder import HybridDecoder
from regen.networks.length_rule import MotionLengthRule
from regen.networks.query_encoder import QueryEncoder
from regen.tiling import Tile, Tiling, crop

LengthsOf = Callable[[Tensor, int], Tensor]  # clips of a region and its budget -> lengths
# The 1D latents of a region, padded, and how many of them each clip has.
RegionTokens = tuple[Float[Tensor, "b c _"], list[int]]


class HybridAutoencoder(VideoAutoencoder):
    """An embedder with structural and 1D latents, whose picture may be split into regions (One-DVA).

    The rows of `latents_mean` and `latents_std` are those of the structural and of the 1D latents.
    """

    encoder: QueryEncoder
    decoder: HybridDecoder
    patches: Patches
    length_rule: MotionLengthRule
    objective: OneDVAObjective

    @property
    def structural_only(self) -> bool:
        """Whether this is the first stage of a training that adds 1D latents later."""
        return self.objective.lengths == "none"

    @property
    def chunk_frames(self) -> int:
        """Frames of a chunk."""
        return self.config.chunk_frames

    def regions(self, frames: int, height: int, width: int) -> Tiling:
        """The regions of a clip's picture with 1D latents of their own, in patches."""
        n, y, x = self.patches.grid(frames, height, width)
        side = self.config.region_size or max(y, x)
        if n * min(y, side) * min(x, side) > self.config.num_queries:
            side = max(1, isqrt(self.config.num_queries // n))
        return Tiling.non_overlapping(y, x, side)

    def budgets(self, frames: int, height: int, width: int) -> list[int]:
        """The maximal number of 1D latents of each region of such a clip: one for each patch."""
        n = 0 if self.structural_only else self.patches.grid(frames, height, width)[0]
        boxes = self.regions(frames, height, width).boxes
        return [n * (bottom - top) * (right - left) for (top, bottom), (left, right) in boxes]

    def region_clips(self, video: Float[Tensor, "b 3 t h w"]) -> list[Float[Tensor, "b 3 t _ _"]]:
        """The pixels of each region."""
        boxes, side = self.regions(*video.shape[2:]).boxes, self.patches.side
        return [crop(video, box, side) for box in boxes]

    def lengths(
        self, video: Float[Tensor, "b 3 t h w"], rule: LengthsOf | None = None
    ) -> Int64[Tensor, "b r"]:
        """The number of 1D latents of each region, by default by its motion (docs/method.md, 16)."""
        pairs = zip(self.region_clips(video), self.budgets(*video.shape[2:]), strict=True)
        rule = self.length_rule.max_length if rule is None else rule
        return torch.stack([rule(clip, budget) for clip, budget in pairs], dim=1)

    def shared_length(self, length: int, frames: int, height: int, width: int) -> Int64[Tensor, " r"]:
        """Split `length` 1D latents by the budgets of a clip's regions. Raises ValueError for too many."""
        budgets = self.budgets(frames, height, width)
        total = sum(budgets)
        if not 0 <= length <= total:
            raise ValueError(
                f"The length of a clip of this size must be 0 to {total} 1D latents, got {length}."
            )
        return (torch.tensor([0, *budgets]).cumsum(0) * length // max(total, 1)).diff()

    @apply_forward_hook
    def encode(
        self,
        video: Float[Tensor, "b 3 t h w"],
        return_dict: bool = True,
        tile: Tile | None = None,
        length: int | None = None,
    ) -> AutoencoderKLOutput | tuple[LatentPosterior]:
        """Encode a video of any length and size, RGB in [-1, 1], to normalised latents.

        It is padded to whole patches, and beyond `chunk_frames` frames to whole chunks, which have regions of
        their own. `.latent_dist.mode()` are `Latents`. `length` is the number of 1D latents of each chunk,
        split among its regions by their size; None: by the motion of each region. A shorter sequence is the
        beginning of a longer one. `tile` bounds how many regions are processed at once. Raises ValueError for
        a length beyond the budget.
        """

        def posterior_of(clip: Tensor) -> LatentPosterior:
            if length is None:
                lengths = self.lengths(clip)
            else:
                lengths = self.shared_length(length, *clip.shape[2:]).to(clip.device).expand(len(clip), -1)
            return self._posterior(clip, lengths, True, tile or self.tile)

        return self._encode(video, return_dict, posterior_of)

    def _pad(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b 3 T H W"]:
        """A video of whole patches and chunks, or a shorter clip of its length."""
        frames, chunk = video.shape[2], self.chunk_frames
        length = frames if frames <= chunk else -(-frames // chunk) * chunk
        return pad(video, length, self.spatial_compression_ratio)

    def _chunks(self, latents: Tensor | Latents) -> list[Latents]:
        """The latents of each chunk, which may be a short one. Raises ValueError for another shape."""
        check_latents(latents, self.latent_channels, type(self).__name__)
        latents = Latents.of(latents)
        parts = [latents] if latents.shape[2] < self.latent_frames else super()._chunks(latents)
        for part in parts:
            self._check_latents(part)
        return parts

    def _posterior(
        self,
        video: Float[Tensor, "b 3 t h w"],
        lengths: Int64[Tensor, "b r"],
        normalised: bool,
        tile: Tile | None = None,
    ) -> LatentPosterior:
        tiling, padded = self.regions(*video.shape[2:]), self.patches.pad(video)

        def encode(group: list[int]) -> tuple[Tensor, Tensor]:
            regions = _stack_regions(padded, tiling, group, self.patches.side)
            return self.encoder(regions, use_queries=not self.structural_only)

        grids, parts = _by_region(encode, tiling, self._max_batch(tile, tiling))
        grid = tiling.blend(grids, 1)
        if normalised:
            grid, parts = self._normalise(grid, 0), [self._normalise(part, 1) for part in parts]
        return LatentPosterior(grid, parts, lengths, self.latent_channels)

    def _decode_regions(
        self,
        noisy: Float[Tensor, "b 3 T H W"],
        t: Float[Tensor, " #b"],
        structural: Float[Tensor, "b c n y x"],
        parts: list[RegionTokens],
        tiling: Tiling,
        max_batch: int,
        length_groups: int = 1,
    ) -> tuple[Float[Tensor, "b 3 T H W"], Float[Tensor, "b d n y x"]]:
        """Prediction and features of the decoder for the whole picture, `max_batch` regions at a time.

        These are decoded in `length_groups` groups of similar length, see `_decode_groups`.
        """
        side = self.patches.side

        def decode(group: list[int]) -> tuple[Tensor, Tensor]:
            noise = _stack_regions(noisy, tiling, group, side)
            grid = _stack_regions(structural, tiling, group, 1)
            lengths = [length for number in group for length in parts[number][1]]
            longest = max(parts[number][0].shape[2] for number in group)
            padded = [F.pad(parts[number][0], (0, longest - parts[number][0].shape[2])) for number in group]
            level = t if len(t) == 1 else t.repeat(len(group))
            return self._decode_groups(noise, grid, torch.cat(padded), lengths, level, length_groups)

        features, repa_features = _by_region(decode, tiling, max_batch)
        pixels = self.decoder.to_pixels(tiling.blend(features, side), structural)
        return pixels, tiling.blend(repa_features, 1)

    def _decode_groups(
        self,
        noisy: Float[Tensor, "b 3 T H W"],
        grid: Float[Tensor, "b c n y x"],
        sequence: Float[Tensor, "b c s"],
        lengths: list[int],
        t: Float[Tensor, " #b"],
        groups: int,
    ) -> tuple[Float[Tensor, "b f T H W"], Float[Tensor, "b d n y x"]]:
        """The decoder on groups of samples of similar length, each padded to its longest sequence only.

        There are `groups` of them whatever the lengths: with FSDP all processes must call the decoder equally
        often.
        """
        if groups == 1:
            return self.decoder(noisy, grid, sequence[:, :, : max(lengths)], _mask(lengths, grid.device), t)
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        ends, results = [len(order) * i // groups for i in range(groups + 1)], []
        for chosen in (order[first:last] for first, last in pairwise(ends)):
            own, rows = [lengths[i] for i in chosen], torch.tensor(chosen, device=grid.device)
            level = t if len(t) == 1 else t[rows]
            results.append(self._decode_groups(noisy[rows], grid[rows], sequence[rows], own, level, groups=1))
        back = torch.tensor(order, device=grid.device).argsort()
        features, repa_features = (torch.cat(part)[back] for part in zip(*results, strict=True))
        return features, repa_features

    def _check_latents(self, latents: Latents) -> None:
        n, y, x = latents.shape[2:]
        side, frames = self.patches.side, 1 + (n - 1) * self.patches.frames
        budgets = self.budgets(frames, y * side, x * side)
        channels, regions = latents.shape[1], latents.lengths.shape[1]
        if (channels, regions) != (self.latent_channels, len(budgets)) or frames > self.chunk_frames:
            raise ValueError(
                f"Latents of {n} x {y} x {x} patches must have {self.latent_channels} channels and "
                f"{len(budgets)} regions in {self.chunk_frames} frames, got {channels}, {regions} and "
                f"{frames}."
            )
        if bool((latents.lengths.cpu() > torch.tensor(budgets)).any()):
            raise ValueError(f"A region must have at most {max(budgets)} 1D latents.")

    def _raw_parts(self, latents: Latents) -> tuple[Float[Tensor, "b c n y x"], list[RegionTokens]]:
        """Raw structural latents, and the raw 1D latents of each region."""
        lengths = latents.lengths.T.tolist()
        parts = [
            (self._raw(sequence, 1), own)
            for (sequence, _), own in zip(latents.regions(), lengths, strict=True)
        ]
        return self._raw(latents.grid, 0), parts

    def _max_batch(self, tile: Tile | None, tiling: Tiling) -> int:
        """Number of regions to process together: as many as have the area of the tile, or all."""
        if tile is None:
            return len(tiling.boxes)
        largest = max((bottom - top) * (right - left) for (top, bottom), (left, right) in tiling.boxes)
        return max(1, tile.height * tile.width // (largest * self.patches.side**2))


def _mask(lengths: list[int], device: torch.device) -> Bool[Tensor, "b s"] | None:
    """The mask of sequences of these lengths; None where nothing is masked, which allows flash attention."""
    longest = max(lengths)
    if min(lengths) == longest:
        return None
    return torch.arange(longest, device=device) < torch.tensor(lengths, device=device)[:, None]


def _stack_regions(whole: Float[Tensor, "b ..."], tiling: Tiling, group: list[int], unit: int) -> Tensor:
    """Regions of a batch of pictures as a larger batch, region after region."""
    return torch.cat([crop(whole, tiling.boxes[number], unit) for number in group])


def _by_region(
    function: Callable[[list[int]], tuple[Tensor, Tensor]], tiling: Tiling, max_batch: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Both results of `function` for each region, in order; up to `max_batch` of one shape are one call."""
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for group in tiling.group_by_shape(max_batch):
        both = (result.chunk(len(group)) for result in function(group))
        found |= dict(zip(group, zip(*both, strict=True), strict=True))
    order = [found[number] for number in range(len(tiling.boxes))]
    return [one[0] for one in order], [one[1] for one in order]
