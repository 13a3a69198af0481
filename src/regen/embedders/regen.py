"""AutoencoderRegen: two latent frames for a chunk of 1 + k, and a diffusion transformer that re-generates it.

REGEN: Learning Compact Video Embedding with (Re-)Generative Decoder, arXiv 2503.08665.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import FrozenDict, register_to_config
from diffusers.models.autoencoders.vae import (
    DecoderOutput,
)
from diffusers.utils.accelerate_utils import apply_forward_hook
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor, nn

from regen import diffusion
from regen.embedders.base import PyramidAutoencoder
from regen.networks.conditioning import Condition, Conditioning, ContextConditioner, LatentConditioner
from regen.networks.dit import DiT, TimestepConditioning
from regen.networks.encoder import CausalEncoder, stride_plan
from regen.tiling import LATENT_STRIDE as PATCH
from regen.tiling import Tile, Tiling, crop


@dataclass(frozen=True)
class RegenConfig:
    """The size and the options of an `AutoencoderRegen`; the defaults are the paper's 4× model."""

    temporal_compression_ratio: int = 4
    """k: a chunk of 1 + k frames becomes two latent frames. 4, 8, 16 or 32."""
    latent_channels: int = 8
    encoder_widths: tuple[int, ...] = (128, 256, 512, 768)
    """Channels of each encoder stage: four stages at 4×, five above."""
    encoder_blocks: int = 4
    """Residual blocks of each stage, and after the last."""
    encoder_patch_size: int = 1
    """Space-to-depth before the first convolution; above 1 for small models, which it makes much faster."""
    linear_skip: bool = False
    """A linear map from pixels to latents beside the pyramid; lets small models train much faster."""
    width: int = 2048
    depth: int = 24
    heads: int = 16
    conditioning: Conditioning = "content_aware"
    """How latents condition the decoder: as content-aware positions, or (ablation) as additional tokens with
    fixed positions, which ignores `siren_width`."""
    siren_width: int = 256
    timestep_conditioning: TimestepConditioning = "adaln_zero"
    """How the noise level enters besides being added to the tokens: not at all (add), through one projection
    that the blocks share (adaln_single), or through one in each block (adaln_zero)."""
    prediction: diffusion.Prediction = "sample"
    attention_window: int | None = None
    """Side of the decoder's attention windows in places of 8 pixels, shifted in every second block; a span
    like that of the training keeps quality and speed at larger sizes. None (the paper): all see all."""
    t_min: float = 0.05
    """With prediction "sample": bound of the loss weight 1 / max(t, t_min)²."""
    pure_noise_prob: float = 0.1
    """Share of training samples at noise level 1 exactly, where one-step decoding works."""
    latent_noise_std: float = 0.0
    """Standard deviation of noise on the latents in training."""
    kl_weight: float = 0.0
    """Above 0 the latents have a Gaussian posterior, and the loss its divergence from N(0, 1)."""


class AutoencoderRegen(PyramidAutoencoder):
    """A generative video embedder with the conventions of a diffusers autoencoder.

    Latents come and go normalised (see `VideoAutoencoder`). The module keeps no state between calls, and no
    parameter depends on the resolution or the number of frames.
    """

    extrapolates = True
    _supports_gradient_checkpointing = True
    _no_split_modules = ("Block", "Stage")

    @register_to_config
    def __init__(
        self,
        temporal_compression_ratio: int = 4,
        latent_channels: int = 8,
        encoder_widths: tuple[int, ...] | list[int] = (128, 256, 512, 768),
        encoder_blocks: int = 4,
        encoder_patch_size: int = 1,
        linear_skip: bool = False,
        width: int = 2048,
        depth: int = 24,
        heads: int = 16,
        conditioning: Conditioning = "content_aware",
        siren_width: int = 256,
        timestep_conditioning: TimestepConditioning = "adaln_zero",
        prediction: diffusion.Prediction = "sample",
        attention_window: int | None = None,
        t_min: float = 0.05,
        pure_noise_prob: float = 0.1,
        latent_noise_std: float = 0.0,
        kl_weight: float = 0.0,
        latents_mean: list[list[float]] | None = None,
        latents_std: list[list[float]] | None = None,
        spatial_compression_ratio: int = PATCH,
        scaling_factor: float = 1.0,
    ):
        super().__init__()
        strides = stride_plan(temporal_compression_ratio, encoder_patch_size)
        _check(self.config, stages=len(strides))
        moments = latent_channels * (2 if kl_weight > 0 else 1)
        self.encoder = CausalEncoder(
            moments, tuple(encoder_widths), strides, encoder_blocks, encoder_patch_size, linear_skip
        )
        self.conditioner = (
            ContextConditioner(latent_channels, width, temporal_compression_ratio)
            if conditioning == "in_context"
            else LatentConditioner(latent_channels, width, siren_width)
        )
        self.decoder = DiT(width, depth, heads, PATCH, timestep_conditioning, attention_window)

    @apply_forward_hook
    def decode(
        self,
        latents: Float[Tensor, "b c n y x"],
        times: Float[Tensor, " t"] | None = None,
        steps: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
        solver: diffusion.Solver = diffusion.euler,
        tile: Tile | None = None,
    ) -> DecoderOutput | tuple[Float[Tensor, "b 3 t h w"]]:
        """Normalised latents to frames at any times: from noise to the clip in `steps` steps (spec A4 to A6).

        `times` are in chunk units: 0 the first frame, 1 the last, any real number between and beyond; by
        default the frames that were encoded. `generator` draws the noise, one for the batch or one for each
        entry; the same generator gives the same frames. `tile` bounds what is worked on at once, by default
        as `enable_tiling` said; tiles share the noise of the frame and are blended in every step. Values are
        about [-1, 1] and not clamped.
        Raises ValueError when steps < 1, or when an image (n = 1) is asked for a time other than 0.
        """
        grid = diffusion.get_schedule(steps)
        times = self._times(latents, times)
        shape = (latents.shape[0], 3, len(times), latents.shape[3] * PATCH, latents.shape[4] * PATCH)
        noise = randn_tensor(shape, generator=generator, device=latents.device, dtype=torch.float32)
        tiling = Tiling.of(latents.shape[3], latents.shape[4], tile or self.tile)
        raw = self._raw(latents)
        conditions: Iterable[Condition] = (
            self._condition(crop(raw, place, 1), times, corner=(place[0][0], place[1][0]))
            for place in tiling.boxes
        )
        if steps > 1:  # computed once; for a single step, tile by tile, which takes less memory
            conditions = list(conditions)

        def network(noisy: Tensor, t: Tensor) -> Tensor:
            pairs = zip(tiling.boxes, conditions, strict=True)
            parts = ((crop(noisy, place, PATCH).to(self.dtype), *condition) for place, condition in pairs)
            return tiling.blend((self.decoder(x, at, t, more).float() for x, at, more in parts), PATCH)

        sample = solver(diffusion.as_velocity(network, self.config.prediction), noise, grid)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(
        self, video: Float[Tensor, "b 3 t h w"], steps: int = 1, generator: torch.Generator | None = None
    ) -> DecoderOutput:
        """Encode and decode one chunk or image."""
        return self.decode(self.encode(video).latent_dist.mode(), steps=steps, generator=generator)

    def loss(
        self, batch: dict[str, Tensor], generators: list[torch.Generator]
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The diffusion loss of encoder and decoder together (REGEN, Eq. 4; the only loss of the paper).

        `batch`: `clip` (b 3 t h w, what is encoded), `target` (b 3 T h w, what is decoded) and its `times`
        (T). With `latents` (b c n h/8 w/8, normalised, as `encode` returns them) in place of `clip` the
        decoder alone is trained, on these; the encoder does not run. All that is random about a sample comes
        from its own one of the `generators`, so the loss is the mean of those of its samples.
        Logs `psnr`, of the clean clip that the network answers at the highest noise levels of the batch.
        """
        target, times = batch["target"], batch["times"]
        assert len(generators) == len(target), "one generator for each sample"
        latents, kl = self._training_latents(batch, generators)
        if self.config.latent_noise_std > 0:
            noise = randn_tensor(latents.shape, generators, latents.device, torch.float32)
            latents = latents + self.config.latent_noise_std * noise.to(latents)
        positions, context = self._condition(latents, times)
        t = diffusion.sample_noise_levels(self.config.pure_noise_prob, generators).to(target.device)
        noise = randn_tensor(target.shape, generators, target.device, torch.float32)
        losses, x0_pred = diffusion.velocity_loss(
            lambda noisy, t: self.decoder(noisy, positions, t, context),
            target, noise, t, self.config.prediction, self.config.t_min,
        )  # fmt: skip
        loss = losses.mean()
        squared = (x0_pred.detach() - target).square().flatten(1).mean(1)
        noisiest = (t == t.max()).float()
        logs = {"psnr": -10 * torch.log10((squared * noisiest).sum() / noisiest.sum() / 4)}
        if kl is not None:
            loss = loss + self.config.kl_weight * kl
            logs["kl"] = kl.detach()
        return loss, {"loss": loss.detach(), **logs}

    def activation_bytes(self, frames: int, height: int, width: int) -> int:
        """About how much memory it takes to encode or decode `frames` frames of `height` x `width` pixels.

        Counted: what lies in memory at once around the widest layers; measured peaks stay below it.
        """
        config, item = self.config, self.dtype.itemsize
        tokens = (frames + 2 * (config.conditioning == "in_context")) * height * width / PATCH**2
        decoder = tokens * (14 * config.width * item + 5 * config.siren_width * 4)
        encoder = frames * height * width / config.encoder_patch_size**2 * 8 * config.encoder_widths[0] * item
        return int(max(decoder, encoder))

    def muon_parameters(self) -> list[nn.Parameter]:
        """The 2-D weights inside the decoder's blocks, for optimizers that treat matrices as such (Muon)."""
        return self.decoder.muon_parameters()

    def _condition(
        self, raw: Float[Tensor, "b c n y x"], times: Float[Tensor, " t"], corner: tuple[int, int] = (0, 0)
    ) -> Condition:
        """What the decoder is told besides the noise; `corner` is the first place of a tile."""
        if isinstance(self.conditioner, ContextConditioner):
            return self.conditioner(raw, times, corner)
        return self.conditioner(raw, times), None

    def _times(
        self, latents: Float[Tensor, "b c n y x"], times: Float[Tensor, " t"] | None
    ) -> Float[Tensor, " t"]:
        channels, kinds = latents.shape[1:3]
        if channels != self.config.latent_channels or kinds not in (1, 2):
            raise ValueError(
                f"Latents have {self.config.latent_channels} channels and 1 (content) or 2 (content, motion) "
                f"frames, not {channels} and {kinds}."
            )
        if times is None:
            return torch.linspace(0, 1, 1 if kinds == 1 else self.chunk_frames, device=latents.device)
        if kinds == 1 and bool((times != 0).any()):
            raise ValueError("A content latent alone is an image, which has only time 0.")
        return times.to(latents.device)


def _check(config: FrozenDict, stages: int) -> None:
    """Raises ValueError for options that exclude each other."""
    width, heads, window = config.width, config.heads, config.attention_window
    in_context = config.conditioning == "in_context"
    smallest = min(config.latent_channels, config.depth)
    bounded = 0 <= config.pure_noise_prob <= 1 and 0 < config.t_min <= 1
    wants = {
        f"{stages} encoder_widths, one for each stage": len(config.encoder_widths) == stages,
        f"a width that {heads} heads divide, not {width}": heads > 0 and width % heads == 0,
        "at least 1 channel and block": smallest > 0,
        "an attention_window of 2 or more, or none": window is None or window >= 2,
        "no attention_window with in_context, where all tokens see all": window is None or not in_context,
        "pure_noise_prob from 0 to 1, and t_min above 0": bounded,
        "its fixed ratio 8": config.spatial_compression_ratio == PATCH,
        "its fixed scale 1": config.scaling_factor == 1,
    }
    for wanted, fulfilled in wants.items():
        if not fulfilled:
            raise ValueError(f"The model's configuration does not fit together: it needs {wanted}.")
