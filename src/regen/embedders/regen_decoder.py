"""RegenDecoder: REGEN's decoder for the latents of any frozen video autoencoder.

A causal autoencoder makes 1 + n latent frames of 1 + r n frames. Latent frame 0 is an image; latent frame g
stands for the frames r (g - 1) + 1 ... r g, its *group*. With the latent frame before it, it is a pair as
REGEN's decoder takes: the group lies at the times 1/r ... 1 after the last frame of the one before. Groups
are decoded one by one, so memory does not depend on the length of a video, and at any time between frames.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from regen import diffusion
from regen.embedders.base import without_margin
from regen.embedders.clips import PointPosterior, check_latents, frames_at
from regen.embedders.diffusion_decoder import DecoderConfig, DiffusionDecoder, PerceptualTerms
from regen.embedders.frozen_encoder import FrozenEncoder, LatentSpace, load_frozen_encoder
from regen.embedders.model import check_requirements, configured_by
from regen.embedders.noise import draw_seeds
from regen.embedders.wrapping import wrapped
from regen.latents import Latents
from regen.networks.linear import NeighbourhoodDecoder
from regen.runtime import generator_for
from regen.tiling import Tile


@dataclass(frozen=True)
class RegenDecoderConfig(DecoderConfig, LatentSpace):
    """The latents, size and options of a `RegenDecoder`."""

    linear_path: bool = False
    """A linear map of 3 x 3 latents to their pixels beside the transformer, which adds to it; small models
    train faster. Fit it with --init.linear-clips."""
    detail_channels: int = 0
    """Channels of a convolution over the decoder's pixels, which mends borders of patches; 0: none."""
    groups_per_clip: int = 1
    """Groups of each clip that an update of the training decodes; more make use of the encoder's work."""
    distillation_weight: float = 0.0
    """Weight of the distance of the predicted frames from those that the encoder's own decoder shows, beside
    the distance from the true ones."""


class RegenDecoder(DiffusionDecoder):
    """A diffusion decoder of latents that a frozen autoencoder makes, with the interface of an embedder.

    Latents are normalised as in the pipelines of the autoencoder's class. It is loaded when `encode` is first
    called, by the name in the config, or given to `attach_encoder`; to decode it is not needed.
    """

    _no_split_modules = ("Block",)
    _repeated_blocks = ("Block",)
    frames_dtype = torch.float32  # of what `decode` returns

    @configured_by(RegenDecoderConfig, scaling_factor=1.0)
    def __init__(self, config: RegenDecoderConfig) -> None:
        super().__init__()
        r, span = config.temporal_compression_ratio, config.chunk_frames - 1
        groups, is_sample = config.groups_per_clip, config.prediction == "sample"
        check_requirements(
            {
                "chunk_frames must be 1 + r n": span >= r >= 1 and span % r == 0,
                "latent_channels must be >= 1": config.latent_channels >= 1,
                "conditioning must be content_aware": config.conditioning == "content_aware",
                "detail_channels must be >= 0": config.detail_channels >= 0,
                "groups_per_clip must be 1 to (chunk_frames - 1) / r": 1 <= groups <= span // r,
                "linear_path needs prediction sample": is_sample or not config.linear_path,
            }
        )
        self._encoder: FrozenEncoder | None = None
        inputs, patch = 2 * config.latent_channels + 1, config.spatial_compression_ratio
        self._build_decoder(config, inputs, r, patch, config.detail_channels, config.linear_path)
        self.linear_image = NeighbourhoodDecoder(inputs, 1, patch) if config.linear_path else None
        self.linear_group = NeighbourhoodDecoder(inputs, r, patch) if config.linear_path else None

    @classmethod
    def wrap(cls, vae: Any, name: "str | RegenDecoder", steps: int = 1) -> Any:
        """The autoencoder of a pipeline with the decoder `name` in place of its own.

            pipe.vae = RegenDecoder.wrap(pipe.vae, "runs/decoder")

        `name` is that of a model (see `from_pretrained`), or a decoder. Raises ValueError when it is for
        other latents.
        """
        dtype = getattr(vae, "dtype", None)
        decoder = name if isinstance(name, cls) else cls.from_pretrained(name, torch_dtype=dtype)
        return wrapped(vae, decoder, steps)

    @property
    def chunk_frames(self) -> int:
        return self.config.chunk_frames

    def set_window(self, latent_frames: int) -> None:
        """Encode and decode chunks of this many latent frames from now on."""
        frames = 1 + self.temporal_compression_ratio * (latent_frames - 1)
        self.register_to_config(chunk_frames=frames)

    @property
    def encoder(self) -> FrozenEncoder:
        """The frozen encoder. Raises ValueError when it is not found, or is not the one of the training."""
        if self._encoder is None:
            name = self.config.encoder
            if not name:
                raise ValueError("This decoder has no encoder; give one to attach_encoder.")
            self.attach_encoder(load_frozen_encoder(name, self.device, self.dtype, self.chunk_frames))
        assert self._encoder is not None
        return self._encoder

    def attach_encoder(self, encoder: FrozenEncoder) -> None:
        """Encode with `encoder`. Raises ValueError unless its latents are those of the training."""
        self.check_encoder(encoder.space.encoder_class, encoder.space.encoder_hash)
        self._encoder = encoder

    def check_encoder(self, encoder_class: str, encoder_hash: str) -> None:
        """Raises ValueError unless these are the class and the hash of the training's encoder, if known."""
        own = self.config.encoder_class, self.config.encoder_hash
        if own[1] and own != (encoder_class, encoder_hash):
            raise ValueError(
                f"This decoder is for latents of {self.config.encoder} ({own[0]}, hash {own[1]}), got "
                f"{encoder_class}, hash {encoder_hash}."
            )

    @property
    def space(self) -> LatentSpace:
        """The latents that this decoder takes."""
        return LatentSpace(**{part.name: self.config[part.name] for part in fields(LatentSpace)})

    def normalise(self, raw: Tensor) -> Float[Tensor, "b c n y x"]:
        """Normalised latents, as `decode` takes them, from raw ones. Raises ValueError for another shape."""
        return self.space.normalise(*self._chunks(raw))

    def _posterior(
        self, video: Float[Tensor, "b 3 t h w"], normalised: bool, tile: Tile | None = None
    ) -> PointPosterior:
        if video.shape[2] not in (1, self.chunk_frames):
            raise ValueError(f"encode takes 1 or {self.chunk_frames} frames, got {video.shape[2]}.")
        return PointPosterior(self.encoder.encode(video, tile).to(self.dtype))

    def _chunks(self, latents: Tensor | Latents) -> list[Any]:
        """Latents of any number of frames are one chunk: those of one video."""
        name = f"{type(self).__name__} of {self.config.encoder or 'its encoder'}"
        latents = latents.for_decoder() if isinstance(latents, Latents) else latents
        check_latents(latents, self.latent_channels, name)
        return [latents]

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
        """Frames at `times` (0 the first frame, 1 the last), by default all; group after group, each with
        noise of its own. Raises ValueError for times outside [0, 1], or other than 0 for an image.
        """
        r, last = self.temporal_compression_ratio, self.temporal_compression_ratio * (latents.shape[2] - 1)
        frames = [float(i) for i in range(last + 1)] if times is None else frames_at(times, last)
        groups = [-int(-frame // r) for frame in frames]
        seeds = draw_seeds(noise, steps, len(latents), generator)
        sides = (self.spatial_compression_ratio * side for side in latents.shape[3:])
        sample = latents.new_empty((len(latents), 3, len(frames), *sides), dtype=self.frames_dtype)
        for g in sorted(set(groups)):
            own = None if seeds is None else [generator_for(seed, g) for seed in seeds]
            chosen = [i for i, group in enumerate(groups) if group == g]
            local = torch.tensor([frames[i] / r - max(0, g - 1) for i in chosen])
            pair = latents[:, :, max(0, g - 1) : g + 1]
            part = self.decode_group(pair, g, local, steps, own, solver, tile, noise)
            sample[:, :, chosen] = part.to(sample.dtype)
        return sample

    @torch.no_grad()
    def decode_group(
        self,
        pair: Float[Tensor, "b c m y x"],
        index: int,
        times: Float[Tensor, " t"],
        steps: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        solver: diffusion.Solver = diffusion.euler,
        tile: Tile | None = None,
        noise: diffusion.Noise | None = None,
    ) -> Float[Tensor, "b 3 t h w"]:
        """Frames of group number `index`: from latent frame 0, the image (m = 1), or from a latent frame and
        the one before it (m = 2).

        `times` are 0 for the image; else they run from 0, the last frame of the group before, to 1, the last
        of this one, whose encoded frames are at 1/r ... 1. The other arguments are those of `decode`.
        """
        groups = torch.ones(len(pair), 1, dtype=torch.long, device=pair.device) if index else None
        features = self._pair(self._raw(pair), groups, None if groups is None else (index - 1) * groups[:, 0])
        return self._generate(features, times.to(pair.device), steps, generator, solver, tile, noise)

    def _pair(
        self,
        raw: Float[Tensor, "b c n y x"],
        groups: Int[Tensor, "b k"] | None,
        begin: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "bk d m y x"]:
        """What the conditioner takes for k groups of each clip (m = 2), or for the images (None; m = 1).

        A latent frame of a foreign autoencoder holds content and motion of its group alike, so both places of
        REGEN's pair hold it, the one before, and whether that one is an image: for group 1, counted with
        `begin`, by default 0.
        """
        if groups is None:
            latent, before, flag = raw[:, :, 0], torch.zeros_like(raw[:, :, 0]), raw.new_zeros(len(raw))
        else:
            rows, frames = torch.arange(len(raw), device=raw.device)[:, None], raw.movedim(2, 1)
            latent, before = frames[rows, groups].flatten(0, 1), frames[rows, groups - 1].flatten(0, 1)
            flag = ((groups if begin is None else groups + begin[:, None]) == 1).flatten().to(raw.dtype)
        flag = repeat(flag, "b -> b 1 y x", y=raw.shape[3], x=raw.shape[4])
        features = torch.cat([before, latent, flag], dim=1)
        return repeat(features, "b d y x -> b d m y x", m=1 if groups is None else 2)

    def _linear(self, raw: Float[Tensor, "b d m y x"], times: Float[Tensor, " t"]) -> Tensor | None:
        if self.linear_image is None or self.linear_group is None:
            return None
        if raw.shape[2] == 1:
            return self.linear_image(raw[:, :, 0], times)
        return self.linear_group(raw[:, :, 0], times * self.temporal_compression_ratio - 1)

    def loss(
        self,
        batch: dict[str, Tensor],
        generators: list[torch.Generator],
        auxiliary: PerceptualTerms | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The diffusion loss of the decoder (REGEN, Eq. 4) on `groups_per_clip` groups of each clip.

        `batch`: `clip` (b 3 t h w, 1 or `chunk_frames` frames), from which the frozen encoder makes latents,
        or these as `latents` (b c n y x), which begin at latent frame `begin` (b) of their video; `target`
        (b 3 T h w), frames at `times` (T, in the chunk), as many in each group at the same places, with the
        first frame or without; and its `margin`. Each sample has its own one of `generators`.
        """
        target, margin, given = batch["target"], int(batch.get("margin", 0)), batch.get("latents")
        latents = self.encoder.encode(batch["clip"]) if given is None else given.to(self.dtype)
        last = latents.shape[2] - 1
        groups = None
        if last:
            count = min(last, self.config.groups_per_clip)
            draws = [torch.randperm(last, generator=generator)[:count] + 1 for generator in generators]
            groups = torch.stack(draws).to(target.device)
            generators = [generator for generator in generators for _ in range(count)]
        pair, frames = self.group(latents, target, groups, batch.get("begin"))
        times = self._times_in_group(batch["times"], last)
        loss, logs, x0_pred = self._diffusion_loss(pair, frames, times, margin, generators, auxiliary)
        if self.config.distillation_weight > 0 and self._has_first(
            target.shape[2], last
        ):  # all encoded frames
            shown = self.group(latents, self.encoder.decode(latents), groups)[1]
            distance = F.mse_loss(x0_pred, without_margin(shown, margin).float())
            loss = loss + self.config.distillation_weight * distance
            logs["distillation"] = distance.detach()
        return loss, {"loss": loss.detach(), **logs}

    def group(
        self,
        latents: Float[Tensor, "b c n y x"],
        video: Float[Tensor, "b 3 t h w"],
        groups: Int[Tensor, "b k"] | None,
        begin: Int[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "bk d m y x"], Float[Tensor, "bk 3 s h w"]]:
        """What the conditioner takes for k groups of each clip, and the frames of these groups.

        `groups` are from 1 to n - 1, None for images; latents begin at latent frame `begin`, by default 0.
        """
        pair = self._pair(self._raw(latents), groups, begin)
        if groups is None:
            return pair, video[:, :, :1]
        count = latents.shape[2] - 1
        video = video[:, :, self._has_first(video.shape[2], count) :]
        parts = rearrange(video, "b c (n s) h w -> b n c s h w", n=count)
        rows = torch.arange(len(video), device=video.device)[:, None]
        return pair, parts[rows, groups - 1].flatten(0, 1)

    def _times_in_group(self, times: Float[Tensor, " t"], groups: int) -> Float[Tensor, " s"]:
        """Times in a group from those in the chunk, which are at the same places in each group."""
        if not groups:
            return times
        times = times[self._has_first(len(times), groups) :]
        return times[: len(times) // groups] * groups

    def _has_first(self, frames: int, groups: int) -> bool:
        """Whether the first frame is among the `frames` of a clip with so many groups."""
        return frames % groups == 1 if groups > 1 else frames == 1 + groups * self.temporal_compression_ratio

    def activation_bytes(self, frames: int, height: int, width: int) -> int:
        """Estimated memory to decode a group or, if the encoder is there, to encode `frames`."""
        decoder = self.decoder_bytes(min(frames, self.temporal_compression_ratio), height, width)
        if self._encoder is None:
            return decoder
        embedder = self._encoder.embedder
        return max(decoder, embedder.activation_bytes(frames, height, width))
