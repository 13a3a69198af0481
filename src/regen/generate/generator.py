"""LatentGenerator: a diffusion transformer from a text or a class to latents (REGEN, Sec. 4; spec A15, B8).

It works on the latents of any embedder of this project: those of several chunks in a row, of any size. With
an embedder that has 1D latents as well, both kinds are made together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, TypeVar

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import FrozenDict, register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from regen import diffusion
from regen.generate.conditions import Condition, ConditionEmbedding
from regen.generate.tokens import LENGTH, SEQUENCE, TokenLayout
from regen.latents import Latents
from regen.layers.attention import Grid
from regen.layers.positions import TimestepEmbedding, sinusoidal_embedding
from regen.networks.dit import zero_linear
from regen.networks.latent_transformer import AdaLNType, LatentTransformer
from regen.networks.patches import Patches

T = TypeVar("T", float, Tensor)
INDEX_WIDTH = 64  # sinusoids of the number of a 1D latent in its region, and of how many there are


@dataclass(frozen=True)
class GeneratorConfig:
    """The size and the options of a `LatentGenerator`; the defaults are Latte-L/2's (arXiv 2401.03048)."""

    width: int = 1024
    depth: int = 24
    heads: int = 16
    num_joint_layers: int = 0
    """Of `depth` blocks the first so many have weights of their own for the text (MMDiT: all); with classes
    it is 0."""
    patch_size: int = 2
    """Latent places on a side that become one token."""
    timestep_conditioning: AdaLNType = "adaln_zero"
    """How noise level and condition act: through one projection that all blocks share (adaln_single), or one
    in each block (adaln_zero)."""
    condition_dropout: float = 0.1
    """Share of the samples that are trained without text or class, for classifier-free guidance."""
    given_frames_prob: float = 0.15
    """Share of the videos of which the first content latent, or the first chunks, are given without noise:
    what turns an image into a video, and goes on with one."""
    timestep_shift: float = 1.0
    """Noise levels t become s t / (1 + (s - 1) t), in training and sampling: above 1, more of them are high
    (arXiv 2403.03206, Eq. 23)."""


@dataclass(frozen=True)
class LatentSpec:
    """What a generator has to know of the latents that it makes, and of the videos that it was trained on."""

    embedder: str = ""
    """The name of the embedder; `weights` is the hash of its weights, `encoder` that of its encoder alone."""
    weights_hash: str = ""
    encoder_hash: str = ""
    channels: int = 8
    chunk_frames: int = 5
    """Frames that one chunk stands for; `chunk_latents` latent frames do."""
    chunk_latents: int = 2
    spatial_compression_ratio: int = 8
    """Pixels on a side of one place of the latents."""
    has_sequence: bool = False
    """Whether there are 1D latents; `region` is the side of a region that has its own ones, in places, and
    `queries` the most that a region of a chunk can have, which bounds its side."""
    region_size: int | None = None
    num_queries: int | None = None
    length_counts: tuple[tuple[int, ...], ...] = ()
    """For each class, or for all together: how many regions had 0, 1, 2 ... 1D latents in training."""
    frame_rate: float = 25.0
    sizes: tuple[tuple[int, int], ...] = ()
    """Height and width in pixels of the videos in training, the frequent ones first."""
    max_chunks: int = 1
    """The most chunks in a row in training."""

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "LatentSpec":
        """From JSON, which has lists for tuples."""
        values = {field.name: content[field.name] for field in fields(cls) if field.name in content}
        for name in ("sizes", "length_counts"):
            values[name] = tuple(tuple(row) for row in values.get(name, ()))
        return cls(**values)


class LatentGenerator(ModelMixin, ConfigMixin):
    """A latent diffusion model with the conventions of a diffusers model.

    `source` holds the fields of a `LatentSpec`. Given are `classes` (their names), or `text_width` (of the
    states of the text encoder that `text` tells of: its `name`, `fingerprint` and `max_tokens`), or neither
    for a model without condition.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ("Block", "JointBlock", "LastJointBlock")
    _forward_methods = ("loss", "velocity")

    @register_to_config
    def __init__(
        self,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        num_joint_layers: int = 0,
        patch_size: int = 2,
        timestep_conditioning: AdaLNType = "adaln_zero",
        condition_dropout: float = 0.1,
        given_frames_prob: float = 0.15,
        timestep_shift: float = 1.0,
        latent_spec: dict[str, Any] | None = None,
        classes: list[str] | None = None,
        text_width: int | None = None,
        text_encoder: dict[str, Any] | None = None,
    ):
        super().__init__()
        _check(self.config)
        own = self.latent_spec = LatentSpec.from_dict(latent_spec or {})
        self.layout = TokenLayout(own.chunk_latents, patch_size, own.region_size, own.num_queries)
        values = self.latent_spec.channels * patch_size**2
        self.embed = nn.Linear(values, width)
        self.type_embedding = nn.Embedding(4 if self.latent_spec.has_sequence else 2, width)
        nn.init.normal_(self.type_embedding.weight, std=0.2)
        self.given_embedding = nn.Parameter(torch.zeros(width))  # zero: given frames begin like the others
        self.timestep_embedding = TimestepEmbedding(width)
        self.condition = ConditionEmbedding(width, len(classes or ()), text_width)
        self.transformer = LatentTransformer(width, depth, heads, num_joint_layers, timestep_conditioning)
        self.out = zero_linear(width, values)
        if self.latent_spec.has_sequence:
            self.embed_sequence = nn.Linear(self.latent_spec.channels, width)
            self.index_embedding = nn.Linear(INDEX_WIDTH, width)
            self.length_embedding = nn.Linear(INDEX_WIDTH, width)
            self.out_sequence = zero_linear(width, self.latent_spec.channels)

    @property
    def is_conditional(self) -> bool:
        """Whether there are classes or texts; without them there is nothing to guide it by."""
        return bool(self.config.classes or self.config.text_width)

    def labels(self, names: Sequence[str]) -> Int64[Tensor, " b"]:
        """The numbers of classes by their names. Raises ValueError, which offers the nearest names."""
        known = list(self.config.classes or ())
        if not known:
            raise ValueError("This generator knows no classes; give it a prompt instead.")
        for name in names:
            if name not in known:
                near = get_close_matches(name, known, n=3, cutoff=0.3) or known[:3]
                offered = " or ".join(map(repr, near))
                raise ValueError(f"There is no class {name!r} among {len(known)}; the nearest are {offered}.")
        return torch.tensor([known.index(name) for name in names])

    @apply_forward_hook
    def velocity(
        self,
        noisy: Latents,
        t: Float[Tensor, " #b"],
        condition: Condition,
        given_mask: Bool[Tensor, "b f"] | None = None,
    ) -> Latents:
        """v = ε - x_0 as the model sees it in latents at noise level t (`regen.diffusion`), in their form.

        `noisy`: a grid "b c f y x", the latent frames of chunks in a row (or one, an image); `lengths` has
        the regions of all chunks, one after another. Frames that are `given` carry no noise, and what is
        answered for them means nothing.
        """
        grid, patches = self.layout.grid(*noisy.shape[2:]), Patches(1, self.config.patch_size)
        x = self.embed(patches.patchify(noisy.grid.to(self.embed.weight.dtype)))
        x = x + self.type_embedding(self.layout.token_types(grid, x.device))
        if given_mask is not None:
            x = x + given_mask.repeat_interleave(grid[1] * grid[2], dim=1)[..., None] * self.given_embedding
        positions, keep, count = self.layout.positions(grid, x.device), None, x.shape[1]
        if noisy.has_sequence:
            x, positions, keep = self._with_sequence(x, positions, noisy, grid)
        pooled, text, text_mask = self.condition(condition)
        level = self.timestep_embedding(t.to(x.device).expand(len(x)))
        level = level if pooled is None else level + pooled
        x = self.transformer(x, positions, level, keep, text, text_mask)
        velocity = Latents.of(patches.unpatchify(self.out(x[:, :count]), grid))
        if not noisy.has_sequence:
            return velocity
        sequence = self.out_sequence(x[:, count : count + noisy.sequence.shape[2]])
        return Latents(velocity.grid, rearrange(sequence, "b s c -> b c s"), noisy.lengths)

    def forward(
        self,
        noisy: Latents,
        t: Float[Tensor, " #b"],
        condition: Condition,
        given_mask: Bool[Tensor, "b f"] | None = None,
    ) -> Latents:
        """See `velocity`."""
        return self.velocity(noisy, t, condition, given_mask)

    def loss(
        self, batch: dict[str, Tensor], generators: list[torch.Generator]
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """‖v - v̂‖² of latents at logit-normal noise levels, the sum over their kinds (spec A15, B8).

        `batch`: `latents` (b c f y x, normalised; where there are 1D latents with `sequence`, b c s, and
        `lengths`, b r), and `label` (b), or `text` (b m e) and `text_mask` (b m). All that is random about a
        sample comes from its own one of the `generators`.
        """
        clean = Latents.from_tensors(batch).to(dtype=torch.float32)
        t = diffusion.sample_noise_levels(0.0, generators, "logit_normal").to(clean.grid.device)
        t = shift_noise_levels(t, self.config.timestep_shift)
        condition = Condition.from_batch(batch).dropout(self.config.condition_dropout, generators)
        given = self._sample_given_mask(clean.grid, generators)
        unknown, noise = self.layout.unknown_masks(clean, given), clean.noise(generators)
        noisy = clean.map(
            lambda part, e, mask: torch.where(mask, diffusion.add_noise(part, e, t), part), noise, unknown
        )
        predicted = self.velocity(noisy, t, condition, given)
        logs = {}
        for name, part, e, velocity, mask in zip(
            ("velocity", "velocity_1d"),
            clean.parts,
            noise.parts,
            predicted.parts,
            unknown.parts,
            strict=False,
        ):
            counts = mask.expand_as(part).flatten(1)
            squared = (velocity.float() - (e - part)).square().flatten(1) * counts
            logs[name] = (squared.sum(1) / counts.sum(1).clamp_min(1)).mean()
        loss = torch.stack([*logs.values()]).sum()
        return loss, {"loss": loss.detach()} | {name: value.detach() for name, value in logs.items()}

    def muon_parameters(self) -> list[nn.Parameter]:
        """The 2-D weights inside the blocks, for optimizers that treat matrices as such (Muon)."""
        return self.transformer.muon_parameters()

    def _with_sequence(
        self, x: Float[Tensor, "b n d"], positions: Float[Tensor, "n 3"], noisy: Latents, grid: Grid
    ) -> tuple[Float[Tensor, "b m d"], Float[Tensor, "b m 3"], Bool[Tensor, "b m"]]:
        """The tokens of the grid, then those of the 1D latents and of how many each region has."""
        tokens = self.layout.sequence(noisy)
        own = self.embed_sequence(noisy.sequence.mT.to(x.dtype)) + self.type_embedding.weight[SEQUENCE]
        own = own + self.index_embedding(_features(tokens.index).to(x.dtype))
        counts = self.length_embedding(_features(noisy.lengths).to(x.dtype))
        counts = counts + self.type_embedding.weight[LENGTH]
        centres = self.layout.region_centres(grid, x.device).expand(len(x), -1, -1)
        keep = [x.new_ones(x.shape[:2], dtype=torch.bool), tokens.mask]
        keep.append(x.new_ones(counts.shape[:2], dtype=torch.bool))
        places = [positions.expand(len(x), -1, -1), tokens.positions, centres]
        return torch.cat([x, own, counts], dim=1), torch.cat(places, dim=1), torch.cat(keep, dim=1)

    def _sample_given_mask(
        self, structural: Float[Tensor, "b c f y x"], generators: list[torch.Generator]
    ) -> Bool[Tensor, "b f"]:
        """Which latent frames are known: of some videos the first content latent, or the first chunks."""
        frames, device = structural.shape[2], structural.device
        draws = torch.stack([torch.rand(3, generator=each, device=each.device) for each in generators])
        chance, kind, share = draws.to(device).unbind(1)
        chunks = -(-frames // self.layout.chunk_latents)
        whole = self.layout.chunk_latents * (1 + (share * (chunks - 1)).long())
        count = torch.where(kind < 0.5, 1, whole) if chunks > 1 else torch.ones_like(whole)
        count = torch.where(chance < self.config.given_frames_prob, count, 0)
        if frames == 1:
            count = torch.zeros_like(count)
        return torch.arange(frames, device=device) < count[:, None]


def shift_noise_levels(t: T, shift: float) -> T:
    """Noise levels, a number or a tensor of them, moved up: s t / (1 + (s - 1) t)."""
    return shift * t / (1 + (shift - 1) * t)


def _features(numbers: Int64[Tensor, "b s"]) -> Float[Tensor, "b s e"]:
    return rearrange(
        sinusoidal_embedding(numbers.flatten().float(), INDEX_WIDTH, max_period=1000.0),
        "(b s) e -> b s e",
        b=len(numbers),
    )


def _check(config: FrozenDict) -> None:
    """Raises ValueError for options that exclude each other."""
    width, heads = config.width, config.heads
    shares = (config.condition_dropout, config.given_frames_prob)
    wants = {
        f"a width that {heads} heads divide into even parts, not {width}": width % (2 * heads) == 0,
        "from 0 to depth blocks for text": 0 <= config.num_joint_layers <= config.depth,
        "no joint blocks without text": config.text_width is not None or config.num_joint_layers == 0,
        "classes or text, not both": not (config.classes and config.text_width),
        "shares from 0 to 1 and a shift above 0": all(0 <= one <= 1 for one in shares)
        and config.timestep_shift > 0,
        "a patch of 1 place or more": config.patch_size >= 1,
    }
    for wanted, fulfilled in wants.items():
        if not fulfilled:
            raise ValueError(f"The generator's configuration does not fit together: it needs {wanted}.")
