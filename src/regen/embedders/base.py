"""VideoAutoencoder: what all embedders share."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import wraps
from typing import Any, TypeVar

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.models.autoencoders.vae import (
    DecoderOutput,
    DiagonalGaussianDistribution,
    IdentityDistribution,
)
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from regen.networks.encoder import CausalEncoder
from regen.tiling import LATENT_STRIDE, Tile, Tiling, crop

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


class VideoAutoencoder(ModelMixin, ConfigMixin):
    """Ratios, latent statistics and tiling by the names of diffusers.

    The latents that a caller sees are normalised: `encode` and `decode` apply `latents_mean` and
    `latents_std` (rows: the first latent frame of a chunk, the others; columns: channels), and
    `scaling_factor` is 1.
    """

    extrapolates: bool = False
    """Whether `decode` generates new frames before and after a chunk."""
    _forward_methods = ("loss", "encode", "decode")
    encode: Callable[..., Any]
    decode: Callable[..., Any]
    tile: Tile | None = None
    """The largest part of the picture to process at once; a `tile` argument takes precedence."""

    @property
    def temporal_compression_ratio(self) -> int:
        return self.config.temporal_compression_ratio

    @property
    def spatial_compression_ratio(self) -> int:
        return LATENT_STRIDE

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

    def _statistics(self, frames: int) -> tuple[Float[Tensor, "c n 1 1"], Float[Tensor, "c n 1 1"]]:
        """Mean and standard deviation of a chunk of `frames` latent frames."""
        rows = [min(i, 1) for i in range(frames)]
        mean, std = self.latents_mean[rows], self.latents_std[rows]
        return rearrange(mean, "n c -> c n 1 1"), rearrange(std, "n c -> c n 1 1")

    def _raw(self, latents: Float[Tensor, "b c n y x"]) -> Float[Tensor, "b c n y x"]:
        """Latents without normalisation."""
        mean, std = self._statistics(latents.shape[2])
        return (latents.float() * std + mean).to(self.dtype)

    def _rows(self, rows: list[list[float]] | None, default: float) -> Float[Tensor, "2 c"]:
        """Statistics in fp32, whatever the precision of the weights."""
        if rows is None:
            return torch.full((2, self.config.latent_channels), default, device=self.device)
        return torch.tensor(rows, device=self.device)


class PyramidAutoencoder(VideoAutoencoder):
    """An embedder whose latents come from a `CausalEncoder`."""

    encoder: CausalEncoder

    @apply_forward_hook
    def encode(
        self, video: Float[Tensor, "b 3 t h w"], return_dict: bool = True, tile: Tile | None = None
    ) -> AutoencoderKLOutput | tuple[IdentityDistribution | DiagonalGaussianDistribution]:
        """Encode a chunk of `chunk_frames` frames, or an image, to normalised latents (REGEN, Sec. 3.1).

        `video` is RGB in [-1, 1] with sides that are multiples of 8. `.latent_dist.mode()` has shape
        `b c n h/8 w/8`: for REGEN n = 2 (content, motion), for MAGVIT-v2 its `latent_frames`; n = 1 for an
        image (t = 1). `regen.codec` takes videos of any length and size. `tile` bounds what is processed at
        once, by default as set by `enable_tiling`. Raises ValueError for other shapes.
        """
        frames, height, width = video.shape[2:]
        if frames not in (1, self.chunk_frames) or height % LATENT_STRIDE or width % LATENT_STRIDE:
            raise ValueError(
                f"A video must have 1 or {self.chunk_frames} frames and sides that are multiples of "
                f"{LATENT_STRIDE}, got {frames} of {height}x{width}; regen.codec splits and pads any video."
            )
        distribution = self._posterior(video.to(self.dtype), normalised=True, tile=tile or self.tile)
        return AutoencoderKLOutput(latent_dist=distribution) if return_dict else (distribution,)

    def _posterior(
        self, video: Float[Tensor, "b 3 t h w"], normalised: bool, tile: Tile | None = None
    ) -> IdentityDistribution | DiagonalGaussianDistribution:
        video = video.to(memory_format=torch.channels_last_3d)
        tiling = Tiling.of(video.shape[3] // LATENT_STRIDE, video.shape[4] // LATENT_STRIDE, tile)
        moments = tiling.blend((self.encoder(crop(video, box, LATENT_STRIDE)) for box in tiling.boxes), 1)
        if normalised:
            moments = normalise(moments, *self._statistics(moments.shape[2]))
        has_variances = moments.shape[1] > self.config.latent_channels
        return DiagonalGaussianDistribution(moments) if has_variances else IdentityDistribution(moments)

    def _training_latents(
        self, batch: dict[str, Tensor], generators: list[torch.Generator]
    ) -> tuple[Float[Tensor, "b c n y x"], Float[Tensor, ""] | None]:
        """Raw latents of `batch["clip"]`, sampled, with their KL where it has a weight.

        `batch["latents"]`, where given, take their place; their KL would train nothing.
        """
        if "latents" in batch:
            return self._raw(batch["latents"]), None
        posterior = self._posterior(batch["clip"], normalised=False)
        kl = kl_divergence(posterior) if self.config.kl_weight > 0 else None
        return posterior.sample(generators), kl


def normalise(
    moments: Float[Tensor, "b m ..."], mean: Float[Tensor, "c ..."], std: Float[Tensor, "c ..."]
) -> Float[Tensor, "b m ..."]:
    """Normalise means of latents, and their log variances to match, where the encoder has them."""
    centre, *log_variance = moments.float().split(len(mean), dim=1)
    parts = [(centre - mean) / std, *(value - 2 * std.log() for value in log_variance)]
    return torch.cat(parts, dim=1).to(moments.dtype)


def kl_divergence(posterior: DiagonalGaussianDistribution) -> Float[Tensor, ""]:
    """KL(posterior ‖ N(0, 1)), averaged over the values of the latents."""
    return 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()


def psnr_at_most_noise(
    x0_pred: Float[Tensor, "b 3 t h w"], target: Float[Tensor, "b 3 t h w"], t: Float[Tensor, " b"]
) -> Float[Tensor, ""]:
    """PSNR in dB of the predicted clean clips at the highest noise level of a batch."""
    squared = (x0_pred.detach() - target).square().flatten(1).mean(1)
    noisiest = (t == t.max()).float()
    return -10 * torch.log10((squared * noisiest).sum() / noisiest.sum() / 4)  # values span 2, from -1 to 1


def blend_frames(
    video: Float[Tensor, "b 3 t h w"], positions: Float[Tensor, " n"]
) -> Float[Tensor, "b 3 n h w"]:
    """Frames at real-valued `positions` (0 is the first frame): linear in between, clamped at the ends."""
    last = video.shape[2] - 1
    positions = positions.to(video.device, torch.float32).clamp(0, last)
    before = positions.floor().long()
    after = (before + 1).clamp(max=last)
    weight = rearrange((positions - before).to(video.dtype), "n -> n 1 1")
    return torch.lerp(video[:, :, before], video[:, :, after], weight)
