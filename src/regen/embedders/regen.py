"""AutoencoderRegen: two latent frames per chunk, a diffusion transformer as decoder.

REGEN: Learning Compact Video Embedding with (Re-)Generative Decoder, arXiv 2503.08665.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regen import diffusion
from regen.embedders.base import add_latent_noise, psnr_at_most_noise, without_margin
from regen.embedders.model import check_requirements, configured_by
from regen.embedders.noise import initial_noise
from regen.embedders.pyramid import PyramidAutoencoder, PyramidConfig
from regen.networks.conditioning import (
    Condition,
    Conditioning,
    ContextConditioner,
    FirstFrame,
    LatentConditioner,
    default_frequency,
)
from regen.networks.dit import DiT, TimestepConditioning, matrix_parameters
from regen.tiling import LATENT_STRIDE as PATCH
from regen.tiling import Tile, Tiling, crop


@runtime_checkable
class PerceptualTerms(Protocol):
    """What REGEN calls of `regen.losses.auxiliary.AuxiliaryLosses`."""

    def perceive(
        self,
        target: Float[Tensor, "b 3 t h w"],
        reconstruction: Float[Tensor, "b 3 t h w"],
        t: Float[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]: ...


@dataclass(frozen=True)
class RegenConfig(PyramidConfig):
    """Size and options of an `AutoencoderRegen`; the defaults are those of the paper's 4× model."""

    width: int = 2048
    depth: int = 24
    heads: int = 16
    conditioning: Conditioning = "content_aware"
    """How latents condition the decoder: as content-aware positions, or (ablation) as additional tokens with
    fixed positions, which ignores the next three options."""
    siren_width: int = 256
    siren_frequency: float | None = None
    """ω of the SIREN in radians per chunk; None: min(30, k), about one radian per frame."""
    first_frame: FirstFrame = "content"
    """The position of the first frame: a linear map of the content latent, or (the literal reading of the
    paper's Figure 3) what the SIREN predicts from it."""
    timestep_conditioning: TimestepConditioning = "adaln_zero"
    """How the noise level enters besides being added to the tokens: not at all (add), through one projection
    for all blocks (adaln_single), or through one in each block (adaln_zero)."""
    prediction: diffusion.Prediction = "sample"
    """What the network predicts: the clean sample, the velocity, or (for study; no one-step decoding) the
    noise."""
    attention_window: int | None = None
    """Side of the decoder's attention windows in units of 8 pixels, shifted in every second block; a span
    like that of the training keeps quality and speed at larger sizes. None (the paper): full attention."""
    t_min: float = 0.5
    """With prediction "sample": bound of the loss weight 1 / max(t, t_min)²."""
    pure_noise_prob: float = 0.1
    """Probability of noise level 1 in training, where one-step decoding starts."""
    zero_noise_prob: float = 0.5
    """Of the samples at noise level 1, the part whose noise is zero, from which one step starts; several
    steps start from normal noise."""
    latent_noise_std: float = 0.0
    """Standard deviation of the noise added to the latents in training."""
    kl_weight: float = 0.0
    """Weight of the KL divergence of the latents' Gaussian posterior from N(0, 1); 0: no posterior."""


class AutoencoderRegen(PyramidAutoencoder):
    """A generative video embedder with the interface of a diffusers autoencoder.

    Latents are normalised (see `VideoAutoencoder`). The module keeps no state between calls, and no
    parameter depends on the resolution or the number of frames.
    """

    denoises = extrapolates = True
    _supports_gradient_checkpointing = True
    _no_split_modules = ("Block", "Stage")
    _repeated_blocks = ("Block", "CausalResBlock")
    _keep_in_fp32_modules: ClassVar[list[str]] = ["siren"]  # every Fp32Module, as a list

    @configured_by(RegenConfig, scaling_factor=1.0, spatial_compression_ratio=PATCH)
    def __init__(self, config: RegenConfig) -> None:
        super().__init__()
        window, is_in_context = config.attention_window, config.conditioning == "in_context"
        frequency = config.siren_frequency
        if frequency is None:
            frequency = default_frequency(config.temporal_compression_ratio)
        check_requirements(
            {
                "heads must divide width": config.heads > 0 and config.width % config.heads == 0,
                "depth must be >= 1": config.depth >= 1,
                "attention_window must be >= 2 or None": window is None or window >= 2,
                "attention_window must be None with in_context": window is None or not is_in_context,
                "siren_frequency must be > 0 or None": frequency > 0,
                "pure_noise_prob must lie in [0, 1]": 0 <= config.pure_noise_prob <= 1,
                "zero_noise_prob must lie in [0, 1]": 0 <= config.zero_noise_prob <= 1,
                "t_min must lie in (0, 1]": 0 < config.t_min <= 1,
                "linear_skip overlapping needs prediction sample": (
                    config.linear_skip != "overlapping" or config.prediction == "sample"
                ),
            }
        )
        channels, width = config.latent_channels, config.width
        self._build_encoder(config, has_variances=config.kl_weight > 0)
        self.conditioner = (
            ContextConditioner(channels, width, config.temporal_compression_ratio)
            if is_in_context
            else LatentConditioner(channels, width, config.siren_width, frequency, config.first_frame)
        )
        self.register_to_config(siren_frequency=frequency)  # a stored model keeps it if the default changes
        self.decoder = DiT(
            width, config.depth, config.heads, PATCH, config.timestep_conditioning, window,
            config.detail_channels, self.linear_decoder is not None,
        )  # fmt: skip

    @property
    def min_steps(self) -> int:
        """Fewest steps of `decode`: 1, with prediction "epsilon" 2 (docs/method.md, 6)."""
        return 2 if self.config.prediction == "epsilon" else 1

    def _decode(
        self,
        latents: Float[Tensor, "b c n y x"],
        times: Float[Tensor, " t"] | None,
        steps: int,
        generator: torch.Generator | list[torch.Generator] | None,
        solver: diffusion.Solver,
        tile: Tile | None,
        noise: diffusion.Noise | None,
    ) -> Float[Tensor, "b 3 t h w"]:
        """Frames at any times, from noise in `steps` steps (REGEN, Sec. 3.2).

        All frames of a call attend to each other, so each depends on the set of `times`; `regen.codec`
        decodes the encoded frames apart from others. Tiles share the noise of the frame and are blended in
        every step. Raises ValueError for an image (n = 1) at a time other than 0.
        """
        schedule = diffusion.get_schedule(steps)
        times = self._times(latents, times)
        shape = (len(latents), 3, len(times), latents.shape[3] * PATCH, latents.shape[4] * PATCH)
        start = initial_noise(noise, steps, shape, times, generator, latents.device)
        tiling = Tiling.of(latents.shape[3], latents.shape[4], tile)
        raw = self._raw(latents)
        linear = None if self.linear_decoder is None else self.linear_decoder(raw, times)
        conditions: Iterable[Condition] = (
            self._condition(crop(raw, box, 1), times, corner=(box[0][0], box[1][0])) for box in tiling.boxes
        )
        if steps > 1:  # computed once; for a single step, tile by tile, which takes less memory
            conditions = list(conditions)

        def network(noisy: Tensor, t: Tensor) -> Tensor:
            pairs = zip(tiling.boxes, conditions, strict=True)
            inputs = (
                (
                    crop(noisy, box, PATCH).to(self.dtype), at, t, more,
                    None if linear is None else crop(linear, box, PATCH),
                )
                for box, (at, more) in pairs
            )  # fmt: skip
            pred = tiling.blend((self.decoder(*each).float() for each in inputs), PATCH)
            return pred if linear is None else pred + linear.float()

        return solver(diffusion.as_velocity(network, self.config.prediction), start, schedule)

    def denoise_step(
        self,
        noisy: Float[Tensor, "b 3 t h w"],
        t: Float[Tensor, " #b"],
        t_next: Float[Tensor, " #b"],
        latents: Float[Tensor, "b c n y x"],
        times: Float[Tensor, " t"],
    ) -> Float[Tensor, "b 3 t h w"]:
        """One Euler step of `decode` for a chunk, from noise level `t` to `t_next`.

        A pure function of tensors without random numbers, tiles and checks, for `torch.export` with sizes of
        any kind. From zeros at level 1 to level 0 it decodes in one step.
        """
        raw = self._raw(latents)
        positions, context = self._condition(raw, times)
        linear = None if self.linear_decoder is None else self.linear_decoder(raw, times)

        def network(noisy: Tensor, t: Tensor) -> Tensor:
            pred = self.decoder(noisy.to(self.dtype), positions, t, context, linear).float()
            return pred if linear is None else pred + linear.float()

        return diffusion.step(diffusion.as_velocity(network, self.config.prediction), noisy, t, t_next)

    def loss(
        self,
        batch: dict[str, Tensor],
        generators: list[torch.Generator],
        auxiliary: PerceptualTerms | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The diffusion loss of encoder and decoder together (REGEN, Eq. 4, the paper's only loss).

        `batch`: `clip` (b 3 t h w, the encoder's input), `target` (b 3 T h w, the frames to decode) and its
        `times` (T). With `latents` (b c n h/8 w/8, as `encode` returns them) in place of `clip` only the
        decoder is trained; the encoder does not run. The `margin` of the batch is decoded and does not count.
        All random numbers of a sample come from its own one of the `generators`, so the loss is the mean over
        the samples. `auxiliary` adds a perceptual loss of the predicted clean clips at t = 1. Logs `psnr` of
        these at the highest noise level of the batch.
        """
        target, times, margin = batch["target"], batch["times"], int(batch.get("margin", 0))
        assert len(generators) == len(target), "one generator for each sample"
        latents, kl = self._training_latents(batch, generators)
        latents = add_latent_noise(latents, self.config.latent_noise_std, generators)
        positions, context = self._condition(latents, times)
        t = diffusion.sample_noise_levels(self.config.pure_noise_prob, generators).to(target.device)
        noise = diffusion.sample_training_noise(target.shape, t, self.config.zero_noise_prob, generators)
        linear = None if self.linear_decoder is None else self.linear_decoder(latents, times)

        def network(noisy: Tensor, t: Tensor) -> Tensor:
            pred = self.decoder(noisy, positions, t, context, linear).float()
            return pred if linear is None else pred + linear.float()

        losses, x0_pred = diffusion.velocity_loss(
            network, target, noise, t, self.config.prediction, self.config.t_min,
            lambda error: without_margin(error, margin),
        )  # fmt: skip
        x0_pred, target = without_margin(x0_pred, margin), without_margin(target, margin)
        loss, logs = losses.mean(), {"psnr": psnr_at_most_noise(x0_pred, target, t)}
        if kl is not None:
            loss = loss + self.config.kl_weight * kl
            logs["kl"] = kl.detach()
        if auxiliary is not None:
            perceptual, auxiliary_logs = auxiliary.perceive(target, x0_pred, t)
            loss, logs = loss + perceptual, logs | auxiliary_logs
        return loss, {"loss": loss.detach(), **logs}

    def activation_bytes(self, frames: int, height: int, width: int) -> int:
        """Estimated memory of the widest layers for encoding or decoding; measured peaks stay below."""
        config, item = self.config, self.dtype.itemsize
        tokens = (frames + 2 * (config.conditioning == "in_context")) * height * width / PATCH**2
        decoder = tokens * (14 * config.width * item + 5 * config.siren_width * 4)
        encoder = frames * height * width / config.encoder_patch_size**2 * 8 * config.encoder_widths[0] * item
        return int(max(decoder, encoder))

    def muon_parameters(self) -> list[nn.Parameter]:
        """The 2-D weights inside the decoder's blocks, for optimizers of matrices (Muon)."""
        return matrix_parameters(self.decoder.blocks)

    def _condition(
        self, raw: Float[Tensor, "b c n y x"], times: Float[Tensor, " t"], corner: tuple[int, int] = (0, 0)
    ) -> Condition:
        """Conditions of the decoder from raw latents; `corner` is the top left of a tile."""
        if isinstance(self.conditioner, ContextConditioner):
            return self.conditioner(raw, times, corner)
        return self.conditioner(raw, times), None

    def _times(
        self, latents: Float[Tensor, "b c n y x"], times: Float[Tensor, " t"] | None
    ) -> Float[Tensor, " t"]:
        frames = latents.shape[2]
        if times is None:
            return torch.linspace(0, 1, 1 if frames == 1 else self.chunk_frames, device=latents.device)
        if frames == 1 and bool((times != 0).any()):
            raise ValueError("The times of an image (a content latent alone) must be 0.")
        return times.to(latents.device)
