"""AutoencoderOneDVA: a grid of latents, and a sequence of as many more as a clip needs.

One-DVA: Adaptive 1D Video Diffusion Autoencoder, arXiv 2602.04220. Its widths and weights are not published;
what stands for them here is said in docs/method.md.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from diffusers.configuration_utils import FrozenDict, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor, nn

from regen import diffusion
from regen.embedders.base import blend_frames
from regen.embedders.hybrid import HybridAutoencoder, RegionTokens
from regen.latents import Latents
from regen.losses.one_dva import AuxiliaryLoss, OneDVAObjective, latent_losses
from regen.networks.dit import TimestepConditioning
from regen.networks.hybrid_decoder import HybridDecoder
from regen.networks.length_rule import MotionLengthRule
from regen.networks.patches import Patches
from regen.networks.query_encoder import QueryEncoder, QueryPositions
from regen.tiling import Tile


@dataclass(frozen=True)
class OneDVAConfig:
    """The size and the options of an `AutoencoderOneDVA`; the defaults are the base model (spec B2, B6)."""

    chunk_frames: int = 17
    """Frames that are encoded together."""
    latent_channels: int = 32
    """c, of structural and 1D latents alike."""
    temporal_compression_ratio: int = 4
    spatial_compression_ratio: int = 16
    """A patch has so many frames, and pixels on a side."""
    encoder_width: int = 768
    encoder_depth: int = 12
    encoder_heads: int = 12
    linear_skip: bool = False
    """Linear maps beside both transformers, between the pixels of a patch and its structural latent; let
    small models train much faster."""
    width: int = 1024
    depth: int = 24
    heads: int = 16
    pixel_channels: int = 8
    """Channels of the pixels before the last convolution."""
    num_queries: int = 2560
    """The most 1D latents of a region: as many as the largest one has patches."""
    region_size: int | None = None
    """Longest side, in patches, of regions of the picture that have 1D latents of their own; None: the whole
    picture is one, as far as there are queries for it. Regions as large as the training's crops keep small
    models good at any size."""
    query_positions: QueryPositions = "none"
    """Positions of the queries: none, or each that of a patch (anchored)."""
    timestep_conditioning: TimestepConditioning = "adaln_zero"
    long_skip: bool = True
    """The noisy patch's embedding enters the last layer, beside what the blocks make of it."""
    prediction: diffusion.Prediction = "sample"
    length_multiple: int = 16
    min_length_ratio: float = 0.125
    """Share of the budget for a clip without motion."""
    image_length_ratio: float = 0.5
    """Share of the budget for an image."""
    motion_range: tuple[float, float] = (0.0005, 0.03)
    """5 % and 95 % quantiles of the motion of training clips; these are of 256 x 256 crops of the clips that
    the small models were trained on (benchmarks/motion.py)."""
    kl_weight: float = 1e-6
    """Weight of the divergence of the latents' Gaussian posterior from N(0, I); 0: latents without one."""
    objective: OneDVAObjective = field(default_factory=OneDVAObjective)


class AutoencoderOneDVA(HybridAutoencoder):
    """A video embedder with latents of adaptive number, with the conventions of a diffusers autoencoder.

    `encode` answers `Latents`: structural latents, one for each patch of 4 frames and 16 x 16 pixels,
    and 1D latents, as many as the content needs. They come and go normalised; the rows of `latents_mean` and
    `latents_std` are those of the structural and of the 1D latents. The module keeps no state between calls.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ("Block", "EncoderBlock")

    @register_to_config
    def __init__(
        self,
        chunk_frames: int = 17,
        latent_channels: int = 32,
        temporal_compression_ratio: int = 4,
        spatial_compression_ratio: int = 16,
        encoder_width: int = 768,
        encoder_depth: int = 12,
        encoder_heads: int = 12,
        linear_skip: bool = False,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        pixel_channels: int = 8,
        num_queries: int = 2560,
        region_size: int | None = None,
        query_positions: QueryPositions = "none",
        timestep_conditioning: TimestepConditioning = "adaln_zero",
        long_skip: bool = True,
        prediction: diffusion.Prediction = "sample",
        length_multiple: int = 16,
        min_length_ratio: float = 0.125,
        image_length_ratio: float = 0.5,
        motion_range: tuple[float, float] | list[float] = (0.0005, 0.03),
        kl_weight: float = 1e-6,
        objective: dict[str, Any] | None = None,
        latents_mean: list[list[float]] | None = None,
        latents_std: list[list[float]] | None = None,
        scaling_factor: float = 1.0,
    ):
        super().__init__()
        _check(self.config)
        self.patches = Patches(temporal_compression_ratio, spatial_compression_ratio)
        self.length_rule = MotionLengthRule(
            length_multiple, min_length_ratio, image_length_ratio, (motion_range[0], motion_range[1])
        )
        self.objective = OneDVAObjective(**(objective or {}))
        moments = latent_channels * (2 if kl_weight > 0 else 1)
        self.encoder = QueryEncoder(
            latent_channels, moments, self.patches, encoder_width, encoder_depth, encoder_heads, num_queries,
            query_positions, linear_skip,
        )  # fmt: skip
        self.decoder = HybridDecoder(
            latent_channels, self.patches, width, depth, heads, pixel_channels, timestep_conditioning,
            num_queries, query_positions, long_skip, linear_skip,
        )  # fmt: skip

    @apply_forward_hook
    def decode(
        self,
        latents: Latents,
        times: Float[Tensor, " t"] | None = None,
        steps: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
        solver: diffusion.Solver = diffusion.euler,
        tile: Tile | None = None,
    ) -> DecoderOutput | tuple[Float[Tensor, "b 3 t h w"]]:
        """Normalised latents to the frames of their clip, from noise in `steps` steps (spec B6).

        The picture has all pixels of the patches: cut off what was padded (`forward` does). The decoder knows
        the frames that were encoded and no others: at `times` between two of them (0 the first, 1 the last)
        the answer is their linear blend, before and after it stands still. `generator` draws the noise, one
        for the batch or one for each entry. `tile` bounds how many regions are worked on at once. Values are
        about [-1, 1], not clamped. Raises ValueError when steps < 1 or the latents have another shape.
        """
        grid, (n, y, x) = diffusion.get_schedule(steps), latents.shape[2:]
        self._check_latents(latents)
        side, frames = self.patches.side, 1 + (n - 1) * self.patches.frames
        tiling = self.regions(frames, y * side, x * side)
        shape = (len(latents), 3, n * self.patches.frames, y * side, x * side)
        noise = randn_tensor(shape, generator=generator, device=latents.grid.device, dtype=torch.float32)
        structural, parts = self._raw_parts(latents)
        max_batch = self._at_once(tile or self.tile, tiling)

        def network(noisy: Tensor, t: Tensor) -> Tensor:
            return self._decode_regions(noisy.to(self.dtype), t, structural, parts, tiling, max_batch)[
                0
            ].float()

        sample = solver(diffusion.as_velocity(network, self.config.prediction), noise, grid)
        sample = self.patches.crop(sample, frames, y * side, x * side)
        if times is not None:
            sample = blend_frames(sample, times * (frames - 1))
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(
        self, video: Float[Tensor, "b 3 t h w"], steps: int = 1, generator: torch.Generator | None = None
    ) -> DecoderOutput:
        """Encode and decode a clip or image, of any size: the answer has that of the input."""
        frames, height, width = video.shape[2:]
        sample = self.decode(self.encode(video).latent_dist.mode(), steps=steps, generator=generator).sample
        return DecoderOutput(sample=sample[:, :, :frames, :height, :width])

    def loss(
        self,
        batch: dict[str, Tensor],
        generators: list[torch.Generator],
        auxiliary: AuxiliaryLoss | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The velocity loss of encoder and decoder, KL, self-alignment, and what `auxiliary` adds (spec B5).

        `batch["clip"]` (b 3 t h w in [-1, 1]) is encoded and decoded; where `auxiliary` predicts latents
        the decoder learns from those, and the losses of the latents are left out. `progress` is the part of
        the run that is over, for the ramp of the alignment. All that is random about a sample comes from its
        own generator, so the loss without `auxiliary` is the mean of those of its samples.
        Padding counts nowhere. Logs `psnr`, of the clean clip that the network answers at the highest noise
        levels of the batch, and what `latent_losses` tells.
        """
        objective, target = self.objective, batch["target"]
        assert len(generators) == len(target), "one generator for each sample"
        size = target.shape[2:]
        t = diffusion.sample_noise_levels(objective.pure_noise_prob, generators, objective.density)
        t, clean = t.to(target.device), self.patches.pad(target)
        noise = randn_tensor(clean.shape, generators, target.device, torch.float32)
        inputs, tiling = self._decoder_inputs(batch, generators, auxiliary), self.regions(*size)
        repa_features: list[Tensor] = []

        def network(noisy: Tensor, t: Tensor) -> Tensor:
            all_regions = len(tiling.boxes)
            answer, features = self._decode_regions(
                noisy, t, inputs.structural, inputs.parts, tiling, all_regions
            )
            repa_features.append(features)
            return answer

        losses, x0_pred = diffusion.velocity_loss(
            network, clean, noise, t, self.config.prediction, objective.t_min,
            lambda error: self.patches.crop(error, *size),
        )  # fmt: skip
        loss, x0_pred = losses.mean() + inputs.loss, self.patches.crop(x0_pred, *size)
        squared = (x0_pred.detach() - target).square().flatten(1).mean(1)
        noisiest = (t == t.max()).float()
        logs = inputs.logs | {"psnr": -10 * torch.log10((squared * noisiest).sum() / noisiest.sum() / 4)}
        if objective.l1_weight > 0:
            loss = loss + objective.l1_weight * (x0_pred - target).abs().mean()
        if auxiliary is not None:
            for term, said in (auxiliary(target, x0_pred), auxiliary.represent(repa_features[0], target)):
                loss, logs = loss + term, logs | said
        return loss, {"loss": loss.detach(), **logs}

    def activation_bytes(self, frames: int, height: int, width: int) -> int:
        """About how much memory it takes to encode or decode `frames` frames of `height` x `width` pixels."""
        config = self.config
        n, y, x = self.patches.grid(frames, height, width)
        tokens, pixels = 2 * n * y * x, n * y * x * self.patches.pixels
        widest = max(config.width, config.encoder_width)
        return int(tokens * 20 * widest * self.dtype.itemsize + pixels * (3 + config.pixel_channels) * 8)

    def muon_parameters(self) -> list[nn.Parameter]:
        """The 2-D weights inside the blocks of encoder and decoder, for optimizers such as Muon."""
        return self.encoder.muon_parameters() + self.decoder.muon_parameters()

    def _decoder_inputs(
        self, batch: dict[str, Tensor], generators: list[torch.Generator], auxiliary: AuxiliaryLoss | None
    ) -> "DecoderInputs":
        """The raw latents that the decoder is trained on, and what they cost."""
        clip, objective = batch["clip"], self.objective
        lengths = self.sample_lengths(clip, generators, objective.lengths, objective.keep_all_prob)
        if auxiliary is not None and auxiliary.predicts:
            latents = self._posterior(clip, lengths, normalised=True).mode()
            predicted = auxiliary.predicted(latents, generators)
            return DecoderInputs(*self._raw_parts(predicted), clip.new_zeros(()), {})
        posterior, progress = self._posterior(clip, lengths, False), batch.get("progress", torch.ones(()))
        structural, *parts = [self._noised(part, generators) for part in posterior.draw(generators)]
        loss, logs = latent_losses(posterior, objective, self.config.kl_weight, progress)
        return DecoderInputs(structural, list(zip(parts, posterior.masks(), strict=True)), loss, logs)

    def _noised(self, latents: Tensor, generators: list[torch.Generator]) -> Tensor:
        if self.objective.latent_noise_std == 0:
            return latents
        noise = randn_tensor(latents.shape, generators, latents.device, torch.float32)
        return latents + self.objective.latent_noise_std * noise.to(latents)


class DecoderInputs(NamedTuple):
    """What the decoder is told in training, and what that costs."""

    structural: Float[Tensor, "b c n y x"]
    parts: list[RegionTokens]
    loss: Float[Tensor, ""]
    logs: dict[str, Tensor]


def _check(config: FrozenDict) -> None:
    """Raises ValueError for options that exclude each other."""
    widths = (config.width, config.heads), (config.encoder_width, config.encoder_heads)
    smallest = min(
        config.latent_channels, config.depth, config.encoder_depth, config.pixel_channels,
        config.length_multiple, config.temporal_compression_ratio, config.spatial_compression_ratio,
        1 if config.region_size is None else config.region_size,
    )  # fmt: skip
    low, high = config.motion_range
    groups, rest = divmod(config.chunk_frames - 1, max(1, config.temporal_compression_ratio))
    wants = {
        "widths that the heads divide into even parts": all(w % (2 * h) == 0 for w, h in widths),
        "at least 1 channel, block, feature and patch": smallest > 0,
        "a chunk of one frame and whole patches": config.chunk_frames > 0 and rest == 0,
        "a query for each patch of a chunk of one place": config.num_queries > groups,
        "shares of the budget from 0 to 1": min(config.min_length_ratio, config.image_length_ratio) >= 0
        and max(config.min_length_ratio, config.image_length_ratio) <= 1,
        "a motion_range of two rising numbers above 0": 0 < low < high,
        "no linear maps beside a velocity": not (config.linear_skip and config.prediction == "velocity"),
        "its fixed scale 1": config.scaling_factor == 1,
    }
    for wanted, fulfilled in wants.items():
        if not fulfilled:
            raise ValueError(f"The model's configuration does not fit together: it needs {wanted}.")
