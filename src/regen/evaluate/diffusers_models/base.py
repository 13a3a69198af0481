"""Peer: a video autoencoder of diffusers behind the contract of an `Embedder`."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.autoencoders.vae import DecoderOutput, IdentityDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from einops import rearrange
from jaxtyping import Float
from torch import Generator, Tensor, nn

from regen.diffusion import Solver, euler
from regen.tiling import Tile, Tiling, crop, spans

DEFAULT_WINDOW = 33  # frames; 4n + 1 and 8n + 1, as most classes want it
ACTIVATION_COPIES = 8  # activations of the widest layers that lie in memory at once


class DiffusersAdapter:
    """A video autoencoder of diffusers as an `Embedder`: HunyuanVideo and 1.5, and what all have in common.

    A chunk is a window of frames that the network sees at once; windows know nothing of each other. It has
    the most frames up to `window` that the class can take: a multiple of its step, and one more. Latents are
    those of `latent_dist.mode()`, normalised as the class's pipeline does it for its diffusion model.
    ValueError when `window` is too short for two latent frames.
    """

    def __init__(self, vae: Any, window: int = DEFAULT_WINDOW) -> None:
        self.vae = vae.eval()
        self.vae.enable_slicing()  # HunyuanVideo 1.5 takes one video at a time only
        step, shortest = self.frame_step, self._shortest()
        if window < shortest:
            raise ValueError(
                f"A window of {window} frames is too short for {self.name}; give {shortest} or more."
            )
        self.chunk_frames = 1 + (window - 1) // step * step

    @property
    def name(self) -> str:
        """The class in diffusers."""
        return type(self.vae).__name__

    @property
    def temporal_compression_ratio(self) -> int:
        return self.vae.temporal_compression_ratio

    @property
    def spatial_compression_ratio(self) -> int:
        return self.vae.spatial_compression_ratio

    @property
    def extrapolates(self) -> bool:
        return False

    @property
    def frame_step(self) -> int:
        """A window has one frame more than a multiple of this."""
        return self.temporal_compression_ratio

    @property
    def device(self) -> torch.device:
        return self.vae.device

    @property
    def dtype(self) -> torch.dtype:
        return self.vae.dtype

    @property
    def networks(self) -> list[nn.Module]:
        """The models of diffusers in it."""
        return [self.vae]

    def num_parameters(self) -> int:
        """How many numbers the weights have."""
        return self.vae.num_parameters()

    def encode(self, video: Float[Tensor, "b 3 t h w"], *, tile: Tile | None = None) -> AutoencoderKLOutput:
        """One window, or one image, to normalised latents `b c n h/s w/s`; `video` is RGB in [-1, 1].

        Tiles are cut, and blended where they overlap, by this package in the same way for every class.
        Raises ValueError for any other number of frames, and for sides that are no multiples of s.
        """
        side = self.spatial_compression_ratio
        frames, height, width = video.shape[2:]
        if frames not in (1, self.chunk_frames) or height % side or width % side:
            raise ValueError(
                f"A window of {self.name} has {self.chunk_frames} frames (or 1, an image) and sides that are "
                f"multiples of {side}, not {frames} of {height} x {width}; regen.codec splits and pads them."
            )
        video = video.to(self.dtype)
        tiling = self._tiling(height // side, width // side, tile)
        parts = (self.vae.encode(crop(video, box, side)).latent_dist.mode() for box in tiling.boxes)
        raw = tiling.blend(parts, 1).float()
        offset, unit = self._scale(raw.shape[2])
        return AutoencoderKLOutput(latent_dist=IdentityDistribution(((raw - offset) / unit).to(self.dtype)))

    def decode(
        self,
        latents: Float[Tensor, "b c n y x"],
        times: Float[Tensor, " t"] | None = None,
        *,
        steps: int = 1,
        generator: list[Generator],
        solver: Solver = euler,
        tile: Tile | None = None,
    ) -> DecoderOutput:
        """Normalised latents to frames; `times` are in units of the window, 0 its first frame, 1 its last.

        By default all its frames. Only the frames that were encoded exist, and there is nothing to solve:
        raises ValueError for any other time, for other solvers than `euler`, and for more steps than the
        class has.
        """
        frames = 1 + (latents.shape[2] - 1) * self.temporal_compression_ratio
        chosen = list(range(frames)) if times is None else self._own_frames(times, frames)
        if solver is not euler:
            raise ValueError(
                f"{self.name} has no choice of solver and no latent extension; decode it with --solver euler "
                "and --seams none."
            )
        self._check_steps(steps)
        offset, unit = self._scale(latents.shape[2])
        raw = (latents.float() * unit + offset).to(self.dtype)
        return DecoderOutput(sample=self._frames(raw, steps, generator, tile)[:, :, chosen])

    def activation_bytes(self, frames: int, height: int, width: int) -> int:
        """About how much memory it takes to encode or decode `frames` frames of `height` x `width` pixels."""
        return int(ACTIVATION_COPIES * frames * height * width * self._width() * self.dtype.itemsize)

    def _shortest(self) -> int:
        """Frames of the shortest window: two latent frames."""
        return 1 + self.frame_step

    def _own_frames(self, times: Float[Tensor, " t"], frames: int) -> list[int]:
        at = times.double().cpu() * max(1, frames - 1)
        chosen = at.round()
        if bool(((at - chosen).abs() > 1e-3).any()) or not bool(((chosen >= 0) & (chosen < frames)).all()):
            raise ValueError(
                f"{self.name} decodes its own {frames} frames and none between or around them; keep the "
                "frame rate and use --seams none."
            )
        return [int(index) for index in chosen]

    def _check_steps(self, steps: int) -> None:
        if steps != 1:
            raise ValueError(f"{self.name} is no diffusion decoder; decode it in 1 step, not {steps}.")

    def _frames(
        self, raw: Float[Tensor, "b c n y x"], steps: int, generator: list[Generator], tile: Tile | None
    ) -> Float[Tensor, "b 3 t h w"]:
        tiling = self._tiling(raw.shape[3], raw.shape[4], tile)
        parts = (self._network(crop(raw, box, 1), generator) for box in tiling.boxes)
        return tiling.blend(parts, self.spatial_compression_ratio).float()

    def _network(
        self, raw: Float[Tensor, "b c n y x"], generator: list[Generator]
    ) -> Float[Tensor, "b 3 t h w"]:
        """Latents as the encoder gave them, to all their frames."""
        return self.vae.decode(raw).sample

    def _tiling(self, height: int, width: int, tile: Tile | None) -> Tiling:
        """Tiles of a picture of `height` x `width` latent places of this class's size."""
        if tile is None:
            return Tiling([(0, height)], [(0, width)])
        side = self.spatial_compression_ratio
        rows, columns = max(1, tile.height // side), max(1, tile.width // side)
        overlap = min(tile.overlap // side, rows // 2, columns // 2)
        return Tiling(spans(height, rows, overlap), spans(width, columns, overlap))

    def _scale(self, latent_frames: int) -> tuple[Float[Tensor, "c #n 1 1"], Float[Tensor, "c #n 1 1"]]:
        """Offset and unit of the latents: what the encoder gives is offset + unit * normalised."""
        unit = torch.full((self._channels, 1, 1, 1), 1 / self.vae.config.scaling_factor, device=self.device)
        return torch.zeros_like(unit), unit

    @property
    def _channels(self) -> int:
        return self.vae.config.latent_channels

    def _width(self) -> float:
        """Channels of the widest layer of full resolution, per pixel."""
        return float(self.vae.config.block_out_channels[0])

    def _rows(self, numbers: Sequence[float]) -> Float[Tensor, "c n 1 1"]:
        """Numbers of the configuration for each channel, or each channel and latent frame."""
        rows = torch.tensor(numbers, device=self.device, dtype=torch.float32)
        return rearrange(rows, "(c n) -> c n 1 1", c=self._channels)
