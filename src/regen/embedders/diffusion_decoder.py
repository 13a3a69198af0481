"""DiffusionDecoder: latents as content-aware positions, and a diffusion transformer that decodes them.

REGEN: Learning Compact Video Embedding with (Re-)Generative Decoder, arXiv 2503.08665.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regen import diffusion
from regen.diffusion import Prediction
from regen.embedders.base import VideoAutoencoder, add_latent_noise, psnr_at_most_noise, without_margin
from regen.embedders.model import check_requirements
from regen.embedders.noise import initial_noise
from regen.networks.conditioning import (
    Condition,
    Conditioning,
    ContextConditioner,
    FirstFrame,
    LatentConditioner,
    default_frequency,
)
from regen.networks.dit import DiT, TimestepConditioning, matrix_parameters
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
class DecoderConfig:
    """Size and options of a `DiffusionDecoder`; the defaults are those of the paper's 4× model."""

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
    prediction: Prediction = "sample"
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


class DiffusionDecoder(VideoAutoencoder):
    """The generative half of an embedder: conditioner and DiT, how they decode and what they learn from.

    A subclass has `latent_frames` 1 (an image) or 2 in each call here, and calls `_build_decoder` once.
    """

    denoises = True
    _supports_gradient_checkpointing = True
    _keep_in_fp32_modules: ClassVar[list[str]] = ["siren"]  # every Fp32Module, as a list
    conditioner: LatentConditioner | ContextConditioner
    decoder: DiT

    def _build_decoder(
        self, config: DecoderConfig, channels: int, ratio: int, patch: int, detail_channels: int = 0,
        linear_input: bool = False,
    ) -> None:  # fmt: skip
        """Make the conditioner, for latents of `channels`, and the DiT, on patches of `patch` pixels."""
        window, is_in_context = config.attention_window, config.conditioning == "in_context"
        frequency = default_frequency(ratio) if config.siren_frequency is None else config.siren_frequency
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
            }
        )
        self.conditioner = (
            ContextConditioner(channels, config.width, ratio)
            if is_in_context
            else LatentConditioner(channels, config.width, config.siren_width, frequency, config.first_frame)
        )
        self.register_to_config(siren_frequency=frequency)  # a stored model keeps it if the default changes
        self.decoder = DiT(
            config.width, config.depth, config.heads, patch, config.timestep_conditioning, window,
            detail_channels, linear_input,
        )  # fmt: skip

    @property
    def min_steps(self) -> int:
        """Fewest steps of `decode`: 1, with prediction "epsilon" 2 (docs/method.md, 6)."""
        return 2 if self.config.prediction == "epsilon" else 1

    def _linear(self, raw: Float[Tensor, "b c n y x"], times: Float[Tensor, " t"]) -> Tensor | None:
        """The linear reconstruction, to which the DiT adds what is not linear; None without such a path."""
        return None

    def _generate(
        self,
        raw: Float[Tensor, "b c n y x"],
        times: Float[Tensor, " t"],
        steps: int,
        generator: torch.Generator | list[torch.Generator] | None,
        solver: diffusion.Solver,
        tile: Tile | None,
        noise: diffusion.Noise | None,
    ) -> Float[Tensor, "b 3 t h w"]:
        """Frames at any times of a chunk, from noise in `steps` steps (REGEN, Sec. 3.2).

        All frames of a call attend to each other, so each depends on the set of `times`; `regen.codec`
        decodes the encoded frames apart from others. Tiles share the noise of the frame and are blended in
        every step.
        """
        patch = self.spatial_compression_ratio
        schedule = diffusion.get_schedule(steps)
        shape = (len(raw), 3, len(times), raw.shape[3] * patch, raw.shape[4] * patch)
        start = initial_noise(noise, steps, shape, times, generator, raw.device)
        tiling = Tiling.of(raw.shape[3], raw.shape[4], tile, patch)
        linear = self._linear(raw, times)
        conditions: Iterable[Condition] = (
            self._condition(crop(raw, box, 1), times, corner=(box[0][0], box[1][0])) for box in tiling.boxes
        )
        if steps > 1:  # computed once; for a single step, tile by tile, which takes less memory
            conditions = list(conditions)

        def network(noisy: Tensor, t: Tensor) -> Tensor:
            pairs = zip(tiling.boxes, conditions, strict=True)
            inputs = (
                (
                    crop(noisy, box, patch).to(self.dtype), at, t, more,
                    None if linear is None else crop(linear, box, patch),
                )
                for box, (at, more) in pairs
            )  # fmt: skip
            pred = tiling.blend((self.decoder(*each).float() for each in inputs), patch)
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
        network = self._network(self._raw(latents), times, self.dtype)
        return diffusion.step(diffusion.as_velocity(network, self.config.prediction), noisy, t, t_next)

    def _network(
        self, raw: Float[Tensor, "b c n y x"], times: Float[Tensor, " t"], dtype: torch.dtype | None = None
    ) -> diffusion.Network:
        """The prediction of a whole picture as a function of noisy frames and their level."""
        positions, context = self._condition(raw, times)
        linear = self._linear(raw, times)

        def network(noisy: Tensor, t: Tensor) -> Tensor:
            pred = self.decoder(noisy if dtype is None else noisy.to(dtype), positions, t, context, linear)
            return pred.float() if linear is None else pred.float() + linear.float()

        return network

    def _diffusion_loss(
        self,
        raw: Float[Tensor, "b c n y x"],
        target: Float[Tensor, "b 3 t h w"],
        times: Float[Tensor, " t"],
        margin: int,
        generators: list[torch.Generator],
        auxiliary: PerceptualTerms | None,
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]], Float[Tensor, "b 3 t _ _"]]:
        """The diffusion loss (REGEN, Eq. 4), its logs, and the predicted clean clips without the margin.

        All random numbers of a sample come from its own one of the `generators`. `auxiliary` adds a
        perceptual loss of the predicted clean clips at t = 1. Logs `psnr` of these at the highest noise level
        of the batch.
        """
        latents = add_latent_noise(raw, self.config.latent_noise_std, generators)
        t = diffusion.sample_noise_levels(self.config.pure_noise_prob, generators).to(target.device)
        noise = diffusion.sample_training_noise(target.shape, t, self.config.zero_noise_prob, generators)
        losses, x0_pred = diffusion.velocity_loss(
            self._network(latents, times), target, noise, t, self.config.prediction, self.config.t_min,
            lambda error: without_margin(error, margin),
        )  # fmt: skip
        x0_pred, target = without_margin(x0_pred, margin), without_margin(target, margin)
        loss, logs = losses.mean(), {"psnr": psnr_at_most_noise(x0_pred, target, t)}
        if auxiliary is not None:
            perceptual, auxiliary_logs = auxiliary.perceive(target, x0_pred, t)
            loss, logs = loss + perceptual, logs | auxiliary_logs
        return loss, logs, x0_pred

    def decoder_bytes(self, frames: int, height: int, width: int) -> int:
        """Estimated memory of the widest layers for decoding; measured peaks stay below."""
        config = self.config
        tokens = (frames + 2 * (config.conditioning == "in_context")) * height * width
        values = 14 * config.width * self.dtype.itemsize + 5 * config.siren_width * 4
        return int(tokens / self.spatial_compression_ratio**2 * values)

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
