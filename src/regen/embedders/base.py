"""VideoAutoencoder: what all embedders share."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import wraps
from typing import Any, TypeVar

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor

from regen.diffusion import Noise, Solver, euler
from regen.names import NamedModel
from regen.networks.linear import blend_frames
from regen.tiling import LATENT_STRIDE, Tile

C = TypeVar("C")
STATISTICS = {"latents_mean": None, "latents_std": None}  # of embedders, and their defaults


def configured_by(
    config_class: type[C], others: Mapping[str, Any] = STATISTICS, **constants: Any
) -> Callable[[Callable[[Any, C], None]], Callable[..., None]]:
    """Construct a model from a dataclass, the only place where its options are written.

    The fields of `config_class`, `others` with their defaults, and `constants` become the arguments of
    `__init__` and the entries of config.json, as diffusers expects. Dataclasses in fields are objects in
    config.json. The decorated `__init__` takes the dataclass. Raises ValueError when a constant has another
    value.
    """
    shared = {**others, **constants}
    own = vars(config_class())
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    arguments = [inspect.Parameter(name, kind, default=value) for name, value in (own | shared).items()]
    signature = inspect.Signature([inspect.Parameter("self", kind), *arguments])

    def decorate(init: Callable[[Any, C], None]) -> Callable[..., None]:
        @wraps(init)
        def construct(self: ConfigMixin, *args: Any, **options: Any) -> None:
            bound = signature.bind(self, *args, **options)
            bound.apply_defaults()
            values = bound.arguments
            for name, value in constants.items():
                if values[name] != value:
                    raise ValueError(f"{name} must be {value}, got {values[name]}.")
            config = _from_json(config_class, {name: values[name] for name in own})
            self.register_to_config(**asdict(config), **{name: values[name] for name in shared})
            init(self, config)

        construct.__signature__ = signature  # type: ignore[attr-defined]
        return construct

    return decorate


def _from_json(config_class: type[C], values: Mapping[str, Any]) -> Any:
    """A dataclass from JSON, which has lists for tuples and objects for dataclasses."""
    types = {field.name: field.type for field in fields(config_class)}  # type: ignore[arg-type]
    converted: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and is_dataclass(types[name]):
            value = _from_json(types[name], value)  # type: ignore[arg-type]
        converted[name] = tuple(value) if isinstance(value, list) else value
    return config_class(**converted)


def check_requirements(requirements: Mapping[str, bool]) -> None:
    """Raises ValueError with the first requirement on a configuration that does not hold."""
    for requirement, holds in requirements.items():
        if not holds:
            raise ValueError(f"The model's configuration is invalid: {requirement}.")


class VideoAutoencoder(NamedModel, ModelMixin, ConfigMixin):
    """Ratios, latent statistics and tiling by the names of diffusers.

    The latents that a caller sees are normalised: `encode` and `decode` apply `latents_mean` and
    `latents_std` (rows: the first latent frame of a chunk, the others; columns: channels), and
    `scaling_factor` is 1.
    """

    denoises: bool = False
    """Whether `decode` starts from noise, so that more steps change the frames."""
    extrapolates: bool = False
    """Whether `decode` generates new frames before and after a chunk."""
    _forward_methods = ("loss", "encode", "decode")
    decode: Callable[..., Any]
    _posterior: Callable[..., Any]  # (video, normalised, tile) -> a distribution, for `encode`
    tile: Tile | None = None
    """The largest part of the picture to process at once; a `tile` argument takes precedence."""

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

    def enable_tiling(
        self,
        tile_sample_min_height: int = 512,
        tile_sample_min_width: int = 512,
        tile_sample_stride_height: int = 448,
        tile_sample_stride_width: int = 448,
    ) -> None:
        """Process tiles of at most this many pixels from now on; they overlap by size minus stride.

        The names are those of diffusers' video autoencoders; of two overlaps the larger one is used. The
        noise of a pixel does not depend on the tiles, and they are blended in every step.
        """
        overlap = max(
            tile_sample_min_height - tile_sample_stride_height,
            tile_sample_min_width - tile_sample_stride_width,
        )
        self.tile = Tile(tile_sample_min_height, tile_sample_min_width, overlap)

    def disable_tiling(self) -> None:
        """Process the whole picture at once again."""
        self.tile = None

    def forward(
        self, video: Float[Tensor, "b 3 t h w"], steps: int = 1, generator: torch.Generator | None = None
    ) -> DecoderOutput:
        """Encode and decode a chunk or an image; the result has the size of the input."""
        frames, height, width = video.shape[2:]
        latents = self.encode(video).latent_dist.mode()
        sample = self.decode(latents, steps=steps, generator=generator).sample
        return DecoderOutput(sample=sample[:, :, :frames, :height, :width])

    @apply_forward_hook
    def encode(
        self, video: Float[Tensor, "b 3 t h w"], return_dict: bool = True, tile: Tile | None = None
    ) -> AutoencoderKLOutput | tuple[Any]:
        """Encode a chunk of `chunk_frames` frames, or an image, to normalised latents.

        `video` is RGB in [-1, 1] with sides that are multiples of 8. `.latent_dist.mode()` has shape
        `b c n h/8 w/8`: n = 2 for REGEN (content, motion), `latent_frames` for others; n = 1 for an image
        (t = 1). `regen.codec` takes videos of any length and size. `tile` bounds what is processed at
        once, by default as set by `enable_tiling`. Raises ValueError for other shapes.
        """
        self._check_video(video)
        distribution = self._posterior(video.to(self.dtype), True, tile or self.tile)
        return AutoencoderKLOutput(latent_dist=distribution) if return_dict else (distribution,)

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
        return self.latents_mean[rows].T.reshape(shape), self.latents_std[rows].T.reshape(shape)

    def _rows(self, rows: list[list[float]] | None, default: float) -> Float[Tensor, "2 c"]:
        """Statistics in fp32, whatever the precision of the weights."""
        if rows is None:
            return torch.full((2, self.config.latent_channels), default, device=self.device)
        return torch.tensor(rows, device=self.device)

    def _check_video(self, video: Float[Tensor, "b 3 t h w"]) -> None:
        """Raises ValueError unless it is a chunk or an image whose sides are multiples of 8."""
        frames, height, width = video.shape[2:]
        if frames not in (1, self.chunk_frames) or height % LATENT_STRIDE or width % LATENT_STRIDE:
            raise ValueError(
                f"A video must have 1 or {self.chunk_frames} frames and sides that are multiples of "
                f"{LATENT_STRIDE}, got {frames} of {height}x{width}; regen.codec splits and pads any video."
            )


class DirectAutoencoder(VideoAutoencoder):
    """An embedder whose decoder gives the encoded frames in one pass, without noise."""

    _decode_frames: Callable[[Tensor, Tile | None], Tensor]  # (latents, tile) -> all frames

    @property
    def latent_frames(self) -> int:
        """Latent frames of a chunk: one for the first frame, one for each k others."""
        return 1 + (self.chunk_frames - 1) // self.config.temporal_compression_ratio

    @apply_forward_hook
    def decode(
        self,
        latents: Float[Tensor, "b c n y x"],
        times: Float[Tensor, " t"] | None = None,
        steps: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
        solver: Solver = euler,
        tile: Tile | None = None,
        noise: Noise | None = None,
    ) -> DecoderOutput | tuple[Float[Tensor, "b 3 t h w"]]:
        """Decode normalised latents to the frames of their chunk, or to those at `times` (0 first, 1 last).

        Between two encoded frames the result is their linear blend; before the first and after the last it
        is constant. `steps` (at least 1), `generator`, `solver` and `noise` have no effect. Values are about
        [-1, 1], not clamped. Raises ValueError for latents of another shape or `steps` < 1.
        """
        channels, frames = latents.shape[1:3]
        if channels != self.config.latent_channels or frames not in (1, self.latent_frames) or steps < 1:
            raise ValueError(
                f"Decoding takes at least 1 step and 1 or {self.latent_frames} latent frames of "
                f"{self.config.latent_channels} channels, got {steps} and {frames} of {channels}."
            )
        sample = self._decode_frames(latents, tile or self.tile)
        if times is not None:
            sample = blend_frames(sample, times * (sample.shape[2] - 1))
        return DecoderOutput(sample=sample) if return_dict else (sample,)


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
