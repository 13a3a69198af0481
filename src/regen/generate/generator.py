"""LatentGenerator, a diffusion transformer on video latents.

It generates consecutive chunks of any embedder's latents (REGEN, Sec. 4) from a text, a class or nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Literal, TypeVar

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from regen import diffusion
from regen.embedders.model import Model, check_requirements, configured_by
from regen.generate.inputs import LENGTH, SEQUENCE, Condition, ConditionEmbedding, TokenLayout
from regen.latents import Latents
from regen.layers.positions import TimestepEmbedding, sinusoidal_embedding
from regen.networks.dit import zero_linear
from regen.networks.latent_transformer import AdaLNType, FactorisedTransformer, LatentTransformer

T = TypeVar("T", float, Tensor)
INDEX_WIDTH = 64  # of the sinusoidal embeddings of integers


@dataclass(frozen=True)
class GeneratorConfig:
    """Size and options of a `LatentGenerator`; the default sizes are Latte-L/2's (arXiv 2401.03048)."""

    width: int = 1024
    depth: int = 24
    heads: int = 16
    num_joint_layers: int = 0
    """Blocks, from the first, with separate weights for the text (MMDiT: all of them); 0 for classes."""
    patch_size: int = 2
    """Latent positions per side of a token; where it doesn't divide a side, the border is repeated."""
    attention: Literal["joint", "factorised"] = "joint"
    """Attention over all tokens (joint), or in turn over those of a latent frame and those of a position
    (factorised: Latte's variant 1, for grids of latents without text)."""
    timestep_conditioning: AdaLNType = "adaln_zero"
    """Modulation by noise level and condition: one projection shared by all blocks (adaln_single), or one per
    block (adaln_zero)."""
    condition_dropout: float = 0.1
    """Probability of training a sample without its text or class, for classifier-free guidance."""
    given_frames_prob: float = 0.15
    """Probability of giving the first content latent or the first chunks of a video without noise: trains
    image-to-video generation and video continuation."""
    prediction: Literal["velocity", "sample"] = "velocity"
    """What the network predicts: the velocity, or the clean latents (arXiv 2511.13720, 2605.27102),
    which give the velocity. The loss is that of the velocity in both cases."""
    t_min: float = 0.05
    """With prediction "sample": lowest noise level that the velocity is divided by."""
    timestep_shift: float = 1.0
    """s in s t / (1 + (s - 1) t), applied to noise levels t in training and sampling: above 1 there are more
    high ones (arXiv 2403.03206, Eq. 23)."""


@dataclass(frozen=True)
class LatentSpec:
    """The latents that a generator makes, and the videos that it was trained on."""

    embedder: str = ""
    weights_hash: str = ""
    encoder_hash: str = ""
    """Hash of the embedder's weights, and of its encoder alone."""
    channels: int = 8
    chunk_frames: int = 5
    """Frames of a chunk, which has `chunk_latents` latent frames."""
    chunk_latents: int = 2
    spatial_compression_ratio: int = 8
    has_sequence: bool = False  # 1D latents
    region_size: int | None = None
    """Side of a region with its own 1D latents, in latent positions; None: the whole picture."""
    num_queries: int | None = None
    """Maximum number of 1D latents of a region in a chunk, which bounds its side."""
    length_counts: tuple[tuple[int, ...], ...] = ()
    """Histograms of the number of 1D latents per region in training, of each class or one of all videos."""
    frame_rate: float = 25.0
    sizes: tuple[tuple[int, int], ...] = ()
    """Height and width in pixels of the videos in training, most frequent first."""
    max_chunks: int = 1
    """Maximum number of consecutive chunks in training."""

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "LatentSpec":
        """The spec in a config: JSON has lists for tuples."""
        values = {field.name: content[field.name] for field in fields(cls) if field.name in content}
        for name in ("sizes", "length_counts"):
            values[name] = tuple(tuple(row) for row in values.get(name, ()))
        return cls(**values)


class LatentGenerator(Model):
    """A latent diffusion transformer with the conventions of a diffusers model.

    `latent_spec` has the fields of `LatentSpec`. The condition is a class (`classes`: their names), a text
    (`text_width`: width of the hidden states of the text encoder, whose name, fingerprint and max_tokens are
    in `text_encoder`, with the words of captions in a closed language), or nothing.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ("Block", "JointBlock", "LastJointBlock", "FactorisedBlock")
    _repeated_blocks = _no_split_modules
    _forward_methods = ("loss", "velocity")

    @configured_by(GeneratorConfig, dict.fromkeys(("latent_spec", "classes", "text_width", "text_encoder")))
    def __init__(self, config: GeneratorConfig):
        super().__init__()
        width, classes, text_width = config.width, self.config.classes, self.config.text_width
        self.latent_spec = spec = LatentSpec.from_dict(self.config.latent_spec or {})
        _check(config, spec, classes, text_width)
        self.layout = TokenLayout(spec.chunk_latents, config.patch_size, spec.region_size, spec.num_queries)
        patch_values = spec.channels * config.patch_size**2
        self.embed = nn.Linear(patch_values, width)
        self.type_embedding = nn.Embedding(4 if spec.has_sequence else 2, width)
        nn.init.normal_(self.type_embedding.weight, std=0.2)
        self.given_embedding = nn.Parameter(torch.zeros(width))  # zero: given frames begin like the others
        self.timestep_embedding = TimestepEmbedding(width)
        self.condition = ConditionEmbedding(width, len(classes or ()), text_width)
        size, timestep = (width, config.depth, config.heads), config.timestep_conditioning
        self.transformer: LatentTransformer | FactorisedTransformer
        if config.attention == "factorised":
            self.transformer = FactorisedTransformer(*size, timestep)
        else:
            self.transformer = LatentTransformer(*size, config.num_joint_layers, timestep)
        self.out = zero_linear(width, patch_values)
        if spec.has_sequence:
            self.embed_sequence = nn.Linear(spec.channels, width)
            self.index_embedding = nn.Linear(INDEX_WIDTH, width)
            self.length_embedding = nn.Linear(INDEX_WIDTH, width)
            self.out_sequence = zero_linear(width, spec.channels)

    @property
    def is_conditional(self) -> bool:
        """Whether it has classes or reads texts, so that there can be guidance."""
        return bool(self.config.classes or self.config.text_width)

    def labels(self, names: Sequence[str]) -> Int64[Tensor, " b"]:
        """Class indices by name. Raises ValueError, with the closest names, for an unknown class."""
        known = list(self.config.classes or ())
        for name in names:
            if name not in known:
                closest = get_close_matches(name, known, n=3, cutoff=0.3) or known[:3]
                raise ValueError(f"There is no class {name!r} among {len(known)}; the closest are {closest}.")
        return torch.tensor([known.index(name) for name in names])

    def unconditional(self, count: int) -> Condition:
        """The empty condition of `count` samples."""
        if self.config.classes:
            return Condition(label=torch.full((count,), -1, device=self.device))
        if self.config.text_width:
            text = torch.zeros(count, 1, self.config.text_width, device=self.device)
            return Condition(text=text, text_mask=torch.zeros_like(text[..., 0], dtype=torch.bool))
        return Condition()

    @apply_forward_hook
    def velocity(
        self,
        noisy: Latents,
        t: Float[Tensor, " #b"],
        condition: Condition,
        given_mask: Bool[Tensor, "b f"] | None = None,
    ) -> Latents:
        """Velocity ε - x_0 of latents at noise level t (`regen.diffusion`), in the shape of `noisy`.

        `noisy`: the latent frames of consecutive chunks as a grid "b c f y x" (f = 1: an image), with the
        regions of all chunks in `lengths`. Frames in `given_mask` carry no noise; their velocity is
        meaningless.
        """
        size, patches = noisy.shape[2:], self.layout.patches
        grid = self.layout.grid(*size)
        x = self.embed(patches.patchify(patches.pad(noisy.grid.to(self.dtype))))
        x = x + self.type_embedding(self.layout.token_types(grid, x.device))
        if given_mask is not None:
            given = given_mask.repeat_interleave(grid[1] * grid[2], dim=1)[..., None]
            x = x + given * self.given_embedding.to(x.dtype)
        positions, mask, count = self.layout.positions(grid, x.device), None, x.shape[1]
        if noisy.has_sequence:
            x, positions, mask = self._append_sequence(x, positions, noisy)
        pooled, text, text_mask = self.condition(condition, x.dtype)
        cond = self.timestep_embedding(t.to(x.device).expand(len(x)), x.dtype)
        cond = cond if pooled is None else cond + pooled
        if isinstance(self.transformer, FactorisedTransformer):
            x = self.transformer(x, grid, cond)
        else:
            x = self.transformer(x, positions, cond, mask, text, text_mask)
        prediction = Latents.of(patches.crop(patches.unpatchify(self.out(x[:, :count]), grid), *size))
        if noisy.has_sequence:
            sequence = self.out_sequence(x[:, count : count + noisy.sequence.shape[2]])
            prediction = Latents(prediction.grid, rearrange(sequence, "b s c -> b c s"), noisy.lengths)
        if self.config.prediction == "velocity":
            return prediction
        level = t.to(noisy.grid.device).clamp_min(self.config.t_min)
        return noisy.map(lambda x, clean: diffusion.velocity_from_clean(x, clean, level), prediction)

    def forward(self, *inputs: Any) -> Latents:
        """See `velocity`."""
        return self.velocity(*inputs)

    def loss(
        self, batch: dict[str, Tensor], generators: list[torch.Generator]
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """‖v - v̂‖² at logit-normal noise levels, summed over grid and 1D latents.

        `batch`: `latents` (b c f y x, normalised; with 1D latents also `sequence`, b c s, and `lengths`,
        b r), and `label` (b), or `text` (b m e) and `text_mask` (b m). The randomness of each sample comes
        from its own generator.
        """
        clean = Latents.from_tensors(batch).to(dtype=torch.float32)
        t = diffusion.sample_noise_levels(0.0, generators, "logit_normal").to(clean.grid.device)
        t = shift_noise_levels(t, self.config.timestep_shift)
        condition = Condition.from_batch(batch).dropout(self.config.condition_dropout, generators)
        given_mask = self._sample_given_mask(clean.grid, generators)
        mask, noise = self.layout.generated_mask(clean, given_mask), clean.noise(generators)
        noisy = clean.map(
            lambda x, e, generated: torch.where(generated, diffusion.add_noise(x, e, t), x), noise, mask
        )
        predicted = self.velocity(noisy, t, condition, given_mask)
        parts = zip(clean.parts, noise.parts, predicted.parts, mask.parts, strict=True)
        losses = [_masked_mse(velocity.float(), e - x, generated) for x, e, velocity, generated in parts]
        loss = torch.stack(losses).sum()
        names = ("loss", "velocity", "velocity_1d")
        return loss, dict(zip(names, [loss.detach(), *(one.detach() for one in losses)], strict=False))

    def muon_parameters(self) -> list[nn.Parameter]:
        """The 2-D weights of the blocks, for Muon."""
        return self.transformer.muon_parameters()

    def _append_sequence(
        self, x: Float[Tensor, "b n d"], positions: Float[Tensor, "n 3"], noisy: Latents
    ) -> tuple[Float[Tensor, "b m d"], Float[Tensor, "b m 3"], Bool[Tensor, "b m"]]:
        """Tokens of the grid, of the 1D latents, and of the number of 1D latents of each region."""
        tokens = self.layout.sequence(noisy)
        types = self.type_embedding(torch.tensor([SEQUENCE, LENGTH], device=x.device))
        sequence = self.embed_sequence(noisy.sequence.mT.to(x.dtype)) + types[0]
        sequence = sequence + self.index_embedding(_embed_integers(tokens.rank).to(x.dtype))
        lengths = self.length_embedding(_embed_integers(noisy.lengths).to(x.dtype))
        lengths = lengths + types[1]
        centres = self.layout.region_centres(*noisy.shape[2:], device=x.device).expand(len(x), -1, -1)
        ones = [x.new_ones(part.shape[:2], dtype=torch.bool) for part in (x, lengths)]
        mask = torch.cat([ones[0], tokens.mask, ones[1]], dim=1)
        positions = torch.cat([positions.expand(len(x), -1, -1), tokens.positions, centres], dim=1)
        return torch.cat([x, sequence, lengths], dim=1), positions, mask

    def _sample_given_mask(
        self, grid: Float[Tensor, "b c f y x"], generators: list[torch.Generator]
    ) -> Bool[Tensor, "b f"]:
        """Random given frames: the first content latent of some videos, the first chunks of others."""
        frames, device = grid.shape[2], grid.device
        draws = torch.stack([torch.rand(3, generator=g, device=g.device) for g in generators])
        chance, kind, fraction = draws.to(device).unbind(1)
        chunks = -(-frames // self.layout.chunk_latents)
        whole = self.layout.chunk_latents * (1 + (fraction * (chunks - 1)).long())
        count = torch.where(kind < 0.5, 1, whole) if chunks > 1 else torch.ones_like(whole)
        prob = self.config.given_frames_prob if frames > 1 else 0.0
        count = torch.where(chance < prob, count, 0)
        return torch.arange(frames, device=device) < count[:, None]


def _check(config: GeneratorConfig, spec: LatentSpec, classes: Any, text_width: int | None) -> None:
    joint = config.attention == "joint"
    check_requirements(
        {
            "width % (2 * heads) == 0": config.width % (2 * config.heads) == 0,
            "0 <= num_joint_layers <= depth": 0 <= config.num_joint_layers <= config.depth,
            "text for num_joint_layers > 0": text_width is not None or config.num_joint_layers == 0,
            "classes or text, not both": not (classes and text_width),
            "0 <= condition_dropout <= 1": 0 <= config.condition_dropout <= 1,
            "0 <= given_frames_prob <= 1": 0 <= config.given_frames_prob <= 1,
            "prediction velocity or sample": config.prediction in ("velocity", "sample"),
            "t_min > 0": config.t_min > 0,
            "timestep_shift > 0": config.timestep_shift > 0,
            "patch_size >= 1": config.patch_size >= 1,
            "joint attention for text and 1D latents": joint or not (text_width or spec.has_sequence),
            "depth % 2 == 0 and width % 4 == 0 for factorised attention": joint
            or config.depth % 2 == config.width % 4 == 0,
        }
    )


def shift_noise_levels(t: T, shift: float) -> T:
    """Noise levels s t / (1 + (s - 1) t) (arXiv 2403.03206, Eq. 23)."""
    return shift * t / (1 + (shift - 1) * t)


def _masked_mse(
    predicted: Float[Tensor, "b ..."], target: Float[Tensor, "b ..."], mask: Bool[Tensor, "b ..."]
) -> Float[Tensor, ""]:
    """Mean over samples of the squared error, averaged over the values in `mask`."""
    flat = mask.expand_as(target).flatten(1)
    squared = (predicted - target).square().flatten(1) * flat
    return (squared.sum(1) / flat.sum(1).clamp_min(1)).mean()


def _embed_integers(numbers: Int64[Tensor, "b s"]) -> Float[Tensor, "b s e"]:
    flat = sinusoidal_embedding(numbers.flatten().float(), INDEX_WIDTH, max_period=1000.0)
    return rearrange(flat, "(b s) e -> b s e", b=len(numbers))
