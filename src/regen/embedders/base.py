"""VideoAutoencoder: what all embedders share."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from diffusers.utils.torch_utils import randn_tensor
from einops import rearrange
from jaxtyping import Float
from torch import Generator, Tensor

from regen.diffusion import Noise, Solver, euler
from regen.embedders.clips import check_latents, check_video, join_posteriors, pad, split_chunks, split_rows
from regen.embedders.model import DecoderOutput, Model
from regen.embedders.preview import RgbFactors, to_rgb
from regen.latents import Latents
from regen.tiling import Tile


class VideoAutoencoder(Model):
    """Ratios, latent statistics, tiling, slicing and videos of any length, by the names of diffusers.

    The latents that a caller sees are normalised: `encode` and `decode` apply `latents_mean` and
    `latents_std` (rows: the first latent frame of a chunk, the others; columns: channels), and
    `scaling_factor` is 1.
    """

    denoises: bool = False
    """Whether `decode` starts from noise, so that more steps change the frames."""
    extrapolates: bool = False
    """Whether `decode` generates new frames before and after a chunk."""
    _forward_methods = ("loss", "encode", "decode")
    _skip_layerwise_casting_patterns = ("linear_", "conv_out")
    _posterior: Callable[..., Any]  # (clip, normalised, tile) -> a distribution, of one chunk
    _decode: Callable[..., Tensor]  # (latents, times, steps, generator, solver, tile, noise) -> frames, same
    tile: Tile | None = None
    """The largest part of the picture to process at once; a `tile` argument takes precedence."""
    use_slicing: bool = False
    """Whether the clips of a batch are processed one by one (`enable_slicing`)."""

    @property
    def min_steps(self) -> int:
        """Fewest denoising steps of `decode`."""
        return 1

    @property
    def temporal_compression_ratio(self) -> int:
        return self.config.temporal_compression_ratio

    @property
    def spatial_compression_ratio(self) -> int:
        return self.config.spatial_compression_ratio

    @property
    def latent_channels(self) -> int:
        return self.config.latent_channels

    @property
    def scaling_factor(self) -> float:
        return 1.0

    @property
    def chunk_frames(self) -> int:
        """Frames of a chunk, 1 + k by default."""
        return 1 + self.config.temporal_compression_ratio

    @property
    def latent_frames(self) -> int:
        """Latent frames of a chunk: one for the first frame, one for each k others."""
        return 1 + (self.chunk_frames - 1) // self.config.temporal_compression_ratio

    @property
    def latents_mean(self) -> Float[Tensor, "2 c"]:
        """Mean of the raw latents (rows: first latent frame, others), which `encode` subtracts."""
        return self._rows(self.config.latents_mean, 0.0)

    @property
    def latents_std(self) -> Float[Tensor, "2 c"]:
        """Standard deviation of the raw latents, by which `encode` divides."""
        return self._rows(self.config.latents_std, 1.0)

    def set_latent_statistics(self, mean: Float[Tensor, "2 c"], std: Float[Tensor, "2 c"]) -> None:
        """Store mean and standard deviation of the raw latents (rows: first latent frame, others)."""
        self.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())

    def set_rgb_factors(self, factors: RgbFactors) -> None:
        """Store the maps of the preview, as `fit_rgb_factors` makes them."""
        self.register_to_config(latent_rgb_factors=factors)

    def preview(self, latents: Float[Tensor, "b c n y x"] | Latents) -> Float[Tensor, "b 3 t y x"]:
        """Small frames of normalised latents, one pixel for each, by a linear map in place of the decoder.

        In [-1, 1]; thousands of frames a second (see `regen.embedders.preview`). Raises ValueError for a
        model without such a map, and for latents of another shape.
        """
        factors = self.config.latent_rgb_factors
        if factors is None:
            raise ValueError("This model has no preview; fit one with regen fit-preview.")
        chunks = [Latents.of(chunk).grid for chunk in self._chunks(latents)]
        frames = to_rgb(factors, torch.cat(chunks))
        return rearrange(frames, "(m b) c t y x -> b c (m t) y x", m=len(chunks))

    @property
    def use_tiling(self) -> bool:
        """Whether the picture is processed in tiles."""
        return self.tile is not None

    def enable_tiling(
        self,
        tile_sample_min_height: int = 512,
        tile_sample_min_width: int = 512,
        tile_sample_stride_height: int | None = None,
        tile_sample_stride_width: int | None = None,
    ) -> None:
        """Process tiles of at most this many pixels from now on; they overlap by size minus stride.

        The names are those of diffusers' video autoencoders; strides are 7/8 of the tile by default, and of
        two overlaps the larger one is used. The noise of a pixel does not depend on the tiles, and they are
        blended in every step.
        """
        sides = tile_sample_min_height, tile_sample_min_width
        strides = tile_sample_stride_height, tile_sample_stride_width
        overlaps = [
            side // 8 if stride is None else side - stride
            for side, stride in zip(sides, strides, strict=True)
        ]
        self.tile = Tile(*sides, max(overlaps))

    def disable_tiling(self) -> None:
        """Process the whole picture at once again."""
        self.tile = None

    def enable_slicing(self) -> None:
        """Process the clips of a batch one by one from now on, which takes less memory."""
        self.use_slicing = True

    def disable_slicing(self) -> None:
        """Process the clips of a batch together again."""
        self.use_slicing = False

    def forward(
        self,
        sample: Float[Tensor, "b 3 t h w"],
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: Generator | list[Generator] | None = None,
        steps: int = 1,
    ) -> DecoderOutput | tuple[Float[Tensor, "b 3 t h w"]]:
        """Encode and decode a video; the result has the size of the input.

        `sample` is RGB in [-1, 1]. `sample_posterior`: decode random latents instead of the most likely ones.
        """
        posterior = self.encode(sample).latent_dist
        frames, height, width = sample.shape[2:]
        latents = posterior.sample(generator) if sample_posterior else posterior.mode()
        decoded = self.decode(latents, steps=steps, generator=generator).sample
        decoded = decoded[:, :, :frames, :height, :width]
        return DecoderOutput(sample=decoded) if return_dict else (decoded,)

    @apply_forward_hook
    def encode(
        self, video: Float[Tensor, "b 3 t h w"], return_dict: bool = True, tile: Tile | None = None
    ) -> AutoencoderKLOutput | tuple[Any]:
        """Encode a video of any length and size, RGB in [-1, 1], to normalised latents.

        One frame is an image. Longer videos are encoded in chunks of `chunk_frames` frames, one after
        another; a short last one repeats its last frame, and sides repeat their border up to a multiple of
        `spatial_compression_ratio`. `.latent_dist.mode()` has shape `b c n y x`: n = 1 for an image, else
        `latent_frames` for each chunk; `decode` takes it back. `tile` bounds what is processed at once, by
        default as set by `enable_tiling`.
        """
        return self._encode(video, return_dict, lambda clip: self._posterior(clip, True, tile or self.tile))

    @apply_forward_hook
    def decode(
        self,
        latents: Float[Tensor, "b c n y x"] | Latents,
        times: Float[Tensor, " t"] | None = None,
        steps: int = 1,
        generator: Generator | list[Generator] | None = None,
        return_dict: bool = True,
        solver: Solver = euler,
        tile: Tile | None = None,
        noise: Noise | None = None,
    ) -> DecoderOutput | tuple[Float[Tensor, "b 3 t h w"]]:
        """Decode normalised latents to frames, those that were encoded or those at `times`.

        `times` are in chunk units (0 the first frame, 1 the last) and hold for each chunk; how far they may
        leave [0, 1] depends on the model. Chunks are decoded one after another and independently;
        `regen.codec` joins them without seams. Where a model `denoises`, it takes `steps` steps of `solver`
        from `noise`, which `generator` draws: one for the batch, or one for each entry. The noise of a frame
        depends on it and the frame alone; by default a single step starts from zero and needs none (see
        `initial_noise`). `tile` bounds what is processed at once, by default as set by `enable_tiling`.
        Values are about [-1, 1], not clamped. Raises ValueError for latents of another shape or steps <
        `min_steps`.
        """
        if steps < self.min_steps:
            raise ValueError(f"steps must be at least {self.min_steps} for this model, got {steps}.")
        chunks = []
        for chunk in self._chunks(latents):
            rows, drawn = [chunk], [generator]
            if self.use_slicing:
                rows = split_rows(chunk)
                drawn = [[g] for g in generator] if isinstance(generator, list) else drawn * len(rows)
            parts = zip(rows, drawn, strict=True)
            decoded = [self._decode(x, times, steps, g, solver, tile or self.tile, noise) for x, g in parts]
            chunks.append(decoded[0] if len(decoded) == 1 else torch.cat(decoded))
        sample = chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim=2)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def _encode(
        self, video: Float[Tensor, "b 3 t h w"], return_dict: bool, posterior_of: Callable[[Tensor], Any]
    ) -> AutoencoderKLOutput | tuple[Any]:
        """The posteriors of the chunks and, with slicing, of the rows of a video, as one."""
        check_video(video, type(self).__name__)
        padded = self._pad(video.to(self.dtype))
        rows = padded.split(1) if self.use_slicing else [padded]
        chunks = [
            join_posteriors([posterior_of(clip) for clip in row.split(self.chunk_frames, dim=2)], dim=2)
            for row in rows
        ]
        posterior = join_posteriors(chunks, dim=0)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def _pad(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b 3 T H W"]:
        """A video of whole chunks, or an image, whose sides are multiples of the spatial ratio."""
        frames = video.shape[2]
        length = 1 if frames == 1 else -(-frames // self.chunk_frames) * self.chunk_frames
        return pad(video, length, self.spatial_compression_ratio)

    def _chunks(self, latents: Tensor | Latents) -> list[Any]:
        """The latents of each chunk. Raises ValueError unless they are those of whole chunks, or an image."""
        check_latents(latents, self.latent_channels, type(self).__name__)
        if (frames := latents.shape[2]) > 1 and frames % self.latent_frames:
            raise ValueError(
                f"Latents must have 1 latent frame (an image) or {self.latent_frames} for each chunk, got "
                f"{frames}."
            )
        return split_chunks(latents, self.latent_frames)

    def _normalise(
        self, moments: Float[Tensor, "b m ..."], row: int | None = None
    ) -> Float[Tensor, "b m ..."]:
        """Normalise means of latents, and log variances, if any, to match (see `_statistics`)."""
        mean, std = self._statistics(moments, row)
        centre, *log_variance = moments.float().split(len(mean), dim=1)
        parts = [(centre - mean) / std, *(value - 2 * std.log() for value in log_variance)]
        return torch.cat(parts, dim=1).to(moments.dtype)

    def _raw(self, latents: Float[Tensor, "b c ..."], row: int | None = None) -> Float[Tensor, "b c ..."]:
        """Latents without normalisation (see `_statistics`)."""
        mean, std = self._statistics(latents, row)
        return (latents.float() * std + mean).to(self.dtype)

    def _statistics(self, latents: Float[Tensor, "b m n ..."], row: int | None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of latents, by one `row` or by that of each latent frame."""
        rows = [min(i, 1) for i in range(latents.shape[2])] if row is None else [row]
        shape = (-1, len(rows), *[1] * (latents.ndim - 3))
        statistics = (self.latents_mean, self.latents_std)
        mean, std = (values.to(latents.device)[rows].T.reshape(shape) for values in statistics)
        return mean, std

    def _rows(self, rows: list[list[float]] | None, default: float) -> Float[Tensor, "2 c"]:
        """Statistics in fp32, whatever the precision of the weights."""
        if rows is None:
            return torch.full((2, self.config.latent_channels), default, device=self.device)
        return torch.tensor(rows, device=self.device)


def add_latent_noise(latents: Tensor, std: float, generators: list[torch.Generator]) -> Tensor:
    """Add Gaussian noise, that of each clip from its own generator; nothing is drawn where `std` is 0."""
    if std == 0:
        return latents
    noise = randn_tensor(latents.shape, generators, latents.device, torch.float32)
    return latents + std * noise.to(latents)


def psnr_at_most_noise(
    x0_pred: Float[Tensor, "b 3 t h w"], target: Float[Tensor, "b 3 t h w"], t: Float[Tensor, " b"]
) -> Float[Tensor, ""]:
    """PSNR in dB of the predicted clean clips at the highest noise level of a batch."""
    squared = (x0_pred.detach() - target).square().flatten(1).mean(1)
    noisiest = (t == t.max()).float()
    return -10 * torch.log10((squared * noisiest).sum() / noisiest.sum() / 4)  # values span 2, from -1 to 1


def without_margin(x: Float[Tensor, "... h w"], margin: int) -> Float[Tensor, "... y x"]:
    """The part of training crops that counts in the loss: all but `margin` pixels on each side."""
    return x[..., margin : x.shape[-2] - margin, margin : x.shape[-1] - margin]
