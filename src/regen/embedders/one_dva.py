"""AutoencoderOneDVA: structural latents, and 1D latents as many as a clip needs.

One-DVA: Adaptive 1D Video Diffusion Autoencoder, arXiv 2602.04220. Its widths and weights are not published;
docs/method.md lists the choices made here.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from regen import diffusion
from regen.diffusion import Prediction
from regen.embedders.base import add_latent_noise, psnr_at_most_noise, without_margin
from regen.embedders.hybrid import HybridAutoencoder, RegionTokens
from regen.embedders.model import check_requirements, configured_by
from regen.embedders.noise import initial_noise
from regen.latents import Latents
from regen.losses.one_dva import AuxiliaryTerms, OneDVAObjective, latent_losses
from regen.networks.dit import Patches, TimestepConditioning, matrix_parameters
from regen.networks.hybrid_decoder import HybridDecoder
from regen.networks.length_rule import MotionLengthRule
from regen.networks.linear import blend_frames
from regen.networks.query_encoder import QueryEncoder, QueryPositions
from regen.tiling import Tile

LENGTH_GROUPS = 4  # of clips of similar length in a training batch, which the decoder gets one after another


@dataclass(frozen=True)
class OneDVAConfig:
    """Size and options of an `AutoencoderOneDVA`; the defaults are those of the base model."""

    chunk_frames: int = 17
    """Frames that are encoded together."""
    latent_channels: int = 32
    """c, of structural and 1D latents."""
    temporal_compression_ratio: int = 4
    """Frames of a patch."""
    spatial_compression_ratio: int = 16
    """Side of a patch in pixels."""
    encoder_width: int = 768
    encoder_depth: int = 12
    encoder_heads: int = 12
    linear_skip: bool = False
    """Linear maps in parallel to both transformers, between the pixels of a patch and its structural latent;
    speed up training of small models."""
    width: int = 1024
    depth: int = 24
    heads: int = 16
    pixel_channels: int = 8
    """Channels of the pixels before the last convolution."""
    num_queries: int = 2560
    """The maximal number of 1D latents of a region: that of the patches of the largest one."""
    region_size: int | None = None
    """Longest side, in patches, of regions of the picture with 1D latents of their own; None: the whole
    picture is one, as far as the queries suffice. With regions as large as the crops of the training, small
    models work at any size."""
    query_positions: QueryPositions = "anchored"
    """Queries start as patches and have their positions, rotary and added (anchored) or rotary alone
    (rotary), or start without (none)."""
    timestep_conditioning: TimestepConditioning = "adaln_zero"
    long_skip: bool = True
    """Whether the embedding of the noisy patch enters the last layer besides the output of the blocks."""
    prediction: Prediction = "sample"
    length_rule: MotionLengthRule = field(default_factory=MotionLengthRule)
    """The number of 1D latents of a clip by its motion."""
    kl_weight: float = 1e-6
    """Weight of the KL divergence of the latents' Gaussian posterior from N(0, I); 0: no posterior."""
    objective: OneDVAObjective = field(default_factory=OneDVAObjective)
    """Options of the training."""


class AutoencoderOneDVA(HybridAutoencoder):
    """A video embedder with latents of adaptive number and the interface of a diffusers autoencoder.

    `encode` gives `Latents`: a grid of structural latents, one for each patch of 4 frames and 16 x 16 pixels,
    and 1D latents, as many as the content needs. They are normalised (see `HybridAutoencoder`).
    """

    denoises = True
    _supports_gradient_checkpointing = True
    _no_split_modules = ("Block", "EncoderBlock")
    _repeated_blocks = ("Block", "EncoderBlock")

    @configured_by(OneDVAConfig, scaling_factor=1.0)
    def __init__(self, config: OneDVAConfig) -> None:
        super().__init__()
        _check(config)
        self.patches = Patches(config.temporal_compression_ratio, config.spatial_compression_ratio)
        self.length_rule, self.objective = config.length_rule, config.objective
        channels = config.latent_channels
        self.encoder = QueryEncoder(
            channels, channels * (2 if config.kl_weight > 0 else 1), self.patches, config.encoder_width,
            config.encoder_depth, config.encoder_heads, config.num_queries, config.query_positions,
            config.linear_skip,
        )  # fmt: skip
        self.decoder = HybridDecoder(
            channels, self.patches, config.width, config.depth, config.heads, config.pixel_channels,
            config.timestep_conditioning, config.num_queries, config.query_positions, config.long_skip,
            config.linear_skip,
        )  # fmt: skip

    def _decode(
        self,
        latents: Latents,
        times: Float[Tensor, " t"] | None,
        steps: int,
        generator: torch.Generator | list[torch.Generator] | None,
        solver: diffusion.Solver,
        tile: Tile | None,
        noise: diffusion.Noise | None,
    ) -> Float[Tensor, "b 3 t h w"]:
        """The frames of a clip, from noise in `steps` steps.

        The picture has all pixels of the patches, including the padding, which `forward` crops. At `times`
        between two encoded frames the result is their linear blend; before and after them it is constant.
        The noise of the frames of a patch depends on their position in the clip. `tile` bounds how many
        regions are processed at once.
        """
        schedule, (n, y, x) = diffusion.get_schedule(steps), latents.shape[2:]
        side, frames = self.patches.side, 1 + (n - 1) * self.patches.frames
        tiling = self.regions(frames, y * side, x * side)
        shape = (len(latents), 3, n * self.patches.frames, y * side, x * side)
        start = initial_noise(noise, steps, shape, range(n), generator, latents.grid.device)
        structural, parts = self._raw_parts(latents)
        max_batch = self._max_batch(tile, tiling)

        def network(noisy: Tensor, t: Tensor) -> Tensor:
            noisy = noisy.to(self.dtype)
            return self._decode_regions(noisy, t, structural, parts, tiling, max_batch)[0].float()

        sample = solver(diffusion.as_velocity(network, self.config.prediction), start, schedule)
        sample = self.patches.crop(sample, frames, y * side, x * side)
        return sample if times is None else blend_frames(sample, times * (frames - 1))

    def denoise_step(
        self,
        noisy: Float[Tensor, "b 3 T H W"],
        t: Float[Tensor, " #b"],
        t_next: Float[Tensor, " #b"],
        structural: Float[Tensor, "b c n y x"],
        sequence: Float[Tensor, "b c s"],
        mask: Bool[Tensor, "b s"] | None = None,
    ) -> Float[Tensor, "b 3 T H W"]:
        """One Euler step of `decode` for a padded clip that is one region, from noise level `t` to `t_next`.

        A pure function of tensors without random numbers and checks, for `torch.export` with sizes of any
        kind. `structural` and `sequence` are normalised; `mask` is True for the 1D latents that exist.
        """
        structural, sequence = self._raw(structural, 0), self._raw(sequence, 1)

        def network(noisy: Tensor, t: Tensor) -> Tensor:
            features, _ = self.decoder(noisy.to(self.dtype), structural, sequence, mask, t)
            return self.decoder.to_pixels(features, structural).float()

        return diffusion.step(diffusion.as_velocity(network, self.config.prediction), noisy, t, t_next)

    def loss(
        self,
        batch: dict[str, Tensor],
        generators: list[torch.Generator],
        auxiliary: AuxiliaryTerms | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The velocity loss of encoder and decoder, KL, and auxiliary losses (self-alignment is one).

        `batch["clip"]` (b 3 t h w in [-1, 1]) is encoded and `target` decoded; where `auxiliary` predicts
        latents the decoder learns from those, without the losses of the latents. `progress` is the completed
        fraction of the training. All random numbers of a sample come from its own one of the `generators`, so
        the loss without `auxiliary` is the mean over the samples. Padding and the
        `margin` of the batch do not count. Logs `psnr` of the
        predicted clean clips at the highest noise level of the batch, and the logs of `latent_losses`.
        """
        objective, target = self.objective, batch["target"]
        assert len(generators) == len(target), "one generator for each sample"
        size, margin = target.shape[2:], int(batch.get("margin", 0))
        t = diffusion.sample_noise_levels(objective.pure_noise_prob, generators, objective.density)
        t, clean = t.to(target.device), self.patches.pad(target)
        noise = diffusion.sample_training_noise(clean.shape, t, objective.zero_noise_prob, generators)
        structural, parts, latent_loss, logs = self._decoder_inputs(batch, generators, auxiliary)
        tiling, repa_features = self.regions(*size), []
        least = int(batch.get("least", len(target)))  # the same in all processes, and so are the groups
        groups = min(LENGTH_GROUPS, least) if objective.lengths == "motion" else 1

        def network(noisy: Tensor, t: Tensor) -> Tensor:
            pred, features = self._decode_regions(
                noisy, t, structural, parts, tiling, len(tiling.boxes), groups
            )
            repa_features.append(features)
            return pred

        losses, x0_pred = diffusion.velocity_loss(
            network, clean, noise, t, self.config.prediction, objective.t_min,
            lambda error: without_margin(self.patches.crop(error, *size), margin),
        )  # fmt: skip
        loss = losses.mean() + latent_loss
        x0_pred, target = (
            without_margin(clip, margin) for clip in (self.patches.crop(x0_pred, *size), target)
        )
        logs = logs | {"psnr": psnr_at_most_noise(x0_pred, target, t)}
        if objective.l1_weight > 0:
            loss = loss + objective.l1_weight * (x0_pred - target).abs().mean()
        if auxiliary is not None:
            for term, term_logs in (
                auxiliary(target, x0_pred), auxiliary.represent(repa_features[0], target)
            ):  # fmt: skip
                loss, logs = loss + term, logs | term_logs
        return loss, {"loss": loss.detach(), **logs}

    def activation_bytes(self, frames: int, height: int, width: int) -> int:
        """Estimated memory for encoding or decoding `frames` frames of `height` x `width` pixels."""
        config = self.config
        n, y, x = self.patches.grid(frames, height, width)
        tokens, pixels = 2 * n * y * x, n * y * x * self.patches.pixels
        widest = max(config.width, config.encoder_width)
        return int(tokens * 20 * widest * self.dtype.itemsize + pixels * (3 + config.pixel_channels) * 8)

    def muon_parameters(self) -> list[nn.Parameter]:
        """The 2-D weights inside the blocks of encoder and decoder, for optimizers of matrices (Muon)."""
        return matrix_parameters(self.encoder.blocks) + matrix_parameters(self.decoder.blocks)

    def _decoder_inputs(
        self, batch: dict[str, Tensor], generators: list[torch.Generator], auxiliary: AuxiliaryTerms | None
    ) -> tuple[Tensor, list[RegionTokens], Float[Tensor, ""], dict[str, Tensor]]:
        """The raw structural and 1D latents on which the decoder is trained, their loss, and its logs."""
        clip, objective = batch["clip"], self.objective

        def sample_lengths(region: Tensor, budget: int) -> Tensor:
            mode, keep_all_prob = objective.lengths, objective.keep_all_prob
            return self.length_rule.sample(region, budget, generators, mode, keep_all_prob)

        lengths = self.lengths(clip, sample_lengths)
        if auxiliary is not None and auxiliary.prediction is not None:
            latents = self._posterior(clip, lengths, normalised=True).mode()
            predicted = auxiliary.prediction(latents, generators, batch)
            return *self._raw_parts(predicted), clip.new_zeros(()), {}
        posterior, progress = self._posterior(clip, lengths, False), batch.get("progress", torch.ones(()))
        drawn, std = posterior.draw(generators), objective.latent_noise_std
        structural, *parts = [add_latent_noise(part, std, generators) for part in drawn]
        loss, logs = latent_losses(posterior, self.config.kl_weight)
        if auxiliary is not None:
            alignment, alignment_logs = auxiliary.align(posterior, progress)
            loss, logs = loss + alignment, logs | alignment_logs
        counts = [[budget] * len(clip) for budget in self.budgets(*clip.shape[2:])]
        if objective.lengths == "motion" and not isinstance(lengths, FakeTensor):  # which has no values
            counts = lengths.T.tolist()  # waits for the encoder; each update waits for the device once anyway
        return structural, list(zip(parts, counts, strict=True)), loss, logs


def _check(config: OneDVAConfig) -> None:
    widths = (config.width, config.heads), (config.encoder_width, config.encoder_heads)
    positive = (
        config.latent_channels, config.depth, config.encoder_depth, config.pixel_channels,
        config.temporal_compression_ratio, config.spatial_compression_ratio, config.chunk_frames,
        1 if config.region_size is None else config.region_size,
    )  # fmt: skip
    groups, rest = divmod(config.chunk_frames - 1, max(1, config.temporal_compression_ratio))
    check_requirements(
        {
            "widths must be even multiples of heads": all(w % (2 * heads) == 0 for w, heads in widths),
            "channels, depths, ratios, chunk_frames and region_size must be >= 1": min(positive) >= 1,
            "chunk_frames must be 1 + a multiple of temporal_compression_ratio": rest == 0,
            f"num_queries must be > {groups}, the patches of one place": config.num_queries > groups,
            "prediction must be sample or velocity": config.prediction != "epsilon",
            "linear_skip needs prediction sample": not config.linear_skip or config.prediction == "sample",
        }
    )
