"""A video autoencoder of diffusers as an `Embedder`, the base of all."""

from typing import Any

import torch
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from einops import rearrange
from jaxtyping import Float
from torch import Generator, Tensor, nn

from regen.diffusion import Noise, Solver, euler
from regen.embedders.clips import PointPosterior
from regen.embedders.model import DecoderOutput
from regen.tiling import Tile, Tiling, crop

DEFAULT_WINDOW = 33  # frames; 4n + 1 and 8n + 1, as most classes require
ACTIVATION_COPIES = 8  # activations of the widest layer in memory at once
Video = Float[Tensor, "b 3 t h w"]
Moments = tuple[Float[Tensor, "c #n 1 1"], Float[Tensor, "c #n 1 1"]]


class DiffusersAdapter:
    """A video autoencoder of diffusers as an `Embedder`; HunyuanVideo, 1.5 and Mochi, and the base of others.

    A chunk is a window of frames that is coded independently. It has one frame more than a multiple of the
    class's step, at most `window`. Latents are those of `latent_dist.mode()`, normalised as in the pipeline
    of the class. Raises ValueError when `window` is too short for two latent frames.
    """

    denoises = extrapolates = False

    def __init__(self, vae: Any, window: int = DEFAULT_WINDOW) -> None:
        self.vae = vae.eval()
        self.vae.enable_slicing()  # HunyuanVideo 1.5 takes one video at a time
        step, shortest = self.frame_step, self._shortest()
        if window < shortest:
            raise ValueError(f"{self.name} needs a window of at least {shortest} frames, got {window}.")
        self.chunk_frames = 1 + (window - 1) // step * step

    @property
    def name(self) -> str:
        return type(self.vae).__name__

    @property
    def temporal_compression_ratio(self) -> int:
        return int(self.vae.config.get("temporal_compression_ratio") or self.vae.temporal_compression_ratio)

    @property
    def spatial_compression_ratio(self) -> int:
        return self.vae.config.get("spatial_compression_ratio") or self.vae.spatial_compression_ratio

    @property
    def frame_step(self) -> int:
        """Windows have one frame more than a multiple of this."""
        return self.temporal_compression_ratio

    @property
    def device(self) -> torch.device:
        return self.vae.device

    @property
    def dtype(self) -> torch.dtype:
        return self.vae.dtype

    @property
    def networks(self) -> list[nn.Module]:
        return [self.vae]

    def num_parameters(self) -> int:
        return self.vae.num_parameters()

    @property
    def latents_mean(self) -> Float[Tensor, "2 c"]:
        """Mean of the raw latents (rows: first latent frame, last), which `encode` subtracts."""
        return self.moments()[0][:, [0, -1], 0, 0].T

    @property
    def latents_std(self) -> Float[Tensor, "2 c"]:
        """Standard deviation of the raw latents, by which `encode` divides."""
        return self.moments()[1][:, [0, -1], 0, 0].T

    def encode(self, video: Float[Tensor, "b 3 t h w"], *, tile: Tile | None = None) -> AutoencoderKLOutput:
        """One window or image, RGB in [-1, 1], to normalised latents `b c n h/s w/s`.

        Tiling is that of this package for every class. Raises ValueError for other numbers of frames, and
        for sides that are not multiples of s.
        """
        side = self.spatial_compression_ratio
        frames, height, width = video.shape[2:]
        if frames not in (1, self.chunk_frames) or height % side or width % side:
            raise ValueError(
                f"{self.name} encodes 1 or {self.chunk_frames} frames with sides in multiples of {side}, got "
                f"{frames} of {height} x {width}; use regen.codec to split and pad."
            )
        video = video.to(self.dtype)
        tiling = Tiling.of(height // side, width // side, tile, side)
        parts = (self.vae.encode(crop(video, box, side)).latent_dist.mode() for box in tiling.boxes)
        raw = tiling.blend(parts, 1).float()
        shift, scale = (moment[:, : raw.shape[2]] for moment in self.moments())
        return AutoencoderKLOutput(latent_dist=PointPosterior(((raw - shift) / scale).to(self.dtype)))

    def decode(
        self,
        latents: Float[Tensor, "b c n y x"],
        times: Float[Tensor, " t"] | None = None,
        *,
        steps: int = 1,
        generator: list[Generator],
        solver: Solver = euler,
        tile: Tile | None = None,
        noise: Noise | None = None,
    ) -> DecoderOutput:
        """Frames at `times` (0 first, 1 last), by default all. Raises ValueError for what it can't decode."""
        frames = 1 + (latents.shape[2] - 1) * self.temporal_compression_ratio
        chosen = list(range(frames)) if times is None else self._frame_indices(times, frames)
        if solver is not euler:
            raise ValueError(f"{self.name} needs --solver euler and --seams none.")
        if self.denoises and noise == "zero":
            raise ValueError(f"{self.name} starts from normal noise, got --noise zero.")
        shift, scale = (moment[:, : latents.shape[2]] for moment in self.moments())
        raw = (latents.float() * scale + shift).to(self.dtype)
        return DecoderOutput(sample=self._frames(raw, steps, generator, tile)[:, :, chosen])

    def activation_bytes(self, frames: int, height: int, width: int) -> int:
        """Estimated memory to encode or decode `frames` frames of `height` x `width` pixels."""
        values = frames * height * width * self._widest_channels()
        return int(ACTIVATION_COPIES * values * self.dtype.itemsize)

    def _shortest(self) -> int:
        return 1 + self.frame_step

    def _frame_indices(self, times: Float[Tensor, " t"], frames: int) -> list[int]:
        at = times.double().cpu() * max(1, frames - 1)
        chosen = at.round()
        if bool(((at - chosen).abs() > 1e-3).any()) or not bool(((chosen >= 0) & (chosen < frames)).all()):
            raise ValueError(f"{self.name} has only {frames} frames; keep the frame rate and --seams none.")
        return [int(index) for index in chosen]

    def _frames(
        self, raw: Float[Tensor, "b c n y x"], steps: int, generator: list[Generator], tile: Tile | None
    ) -> Video:
        if steps != 1:
            raise ValueError(f"{self.name} decodes in 1 step, got {steps}.")
        tiling = Tiling.of(raw.shape[3], raw.shape[4], tile, self.spatial_compression_ratio)
        parts = (self._network(crop(raw, box, 1), generator) for box in tiling.boxes)
        return tiling.blend(parts, self.spatial_compression_ratio).float()

    def _network(self, raw: Float[Tensor, "b c n y x"], generator: list[Generator]) -> Video:
        return self.vae.decode(raw).sample

    def moments(self) -> Moments:
        """Shift and scale of the latents, `c n 1 1` or `c 1 1 1`: encoded = shift + scale * normalised.

        Mean and standard deviation per channel (and latent frame), and a scaling factor, where configured.
        """
        config = self.vae.config
        scale = torch.full(
            (self.latent_channels, 1, 1, 1), 1 / config.get("scaling_factor", 1), device=self.device
        )
        rows = [config.get("latents_mean"), config.get("latents_std")]
        if None in rows:
            return torch.zeros_like(scale), scale
        moments = torch.tensor(rows, device=self.device, dtype=torch.float32)
        mean, std = rearrange(moments, "m (c n) -> m c n 1 1", c=self.latent_channels)
        return mean, std * scale

    @property
    def latent_channels(self) -> int:
        return self.vae.config.latent_channels

    def _widest_channels(self) -> float:
        """Channels per pixel of the widest layer at full resolution."""
        config = self.vae.config
        names = ("decoder_block_out_channels", "decode_block_out_channels", "block_out_channels")
        channels = next(config[name] for name in names if name in config)
        return channels[0] / (config.get("patch_size") or 1) ** 2
