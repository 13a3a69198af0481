"""FrozenEncoder: the encoder of any video autoencoder, for which a decoder is trained."""

import hashlib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from regen.embedders.diffusers_adapter import DEFAULT_WINDOW, DiffusersAdapter
from regen.embedders.diffusers_models import ADAPTERS, find, load
from regen.embedders.interface import Embedder
from regen.io import check_types
from regen.public import MODULES
from regen.tiling import Tile

PREFIX = "diffusers:"
DECODERS = ("decoder.", "post_quant_conv.", "conditioner.", "linear_decoder.")  # weights that latents ignore


@dataclass(frozen=True)
class LatentSpace:
    """What a decoder has to know of the autoencoder whose latents it takes."""

    encoder: str = ""
    """The autoencoder: a name that `regen evaluate` takes, such as owner/name or owner/name/vae, with
    "diffusers:" before it or not."""
    encoder_class: str = ""
    """Its class; with the next, which is over its encoder's weights, they tell whether it is the same."""
    encoder_hash: str = ""
    temporal_compression_ratio: int = 4
    """r: after the first, a latent frame stands for r frames."""
    spatial_compression_ratio: int = 8
    """Pixels along the side of a latent, and of a patch of the decoder."""
    latent_channels: int = 16
    chunk_frames: int = 17
    """Frames that are encoded together in training and by the commands: 1 + r n."""
    encoder_mean: tuple[Any, ...] = (0.0,)
    """Raw latents are mean + std * normalised, for each channel (and latent frame)."""
    encoder_std: tuple[Any, ...] = (1.0,)

    @classmethod
    def parse(cls, values: dict[str, Any]) -> "LatentSpace":
        """The space of fields as JSON stores them. Raises ValueError or TypeError for others."""
        space = cls(**{name: _as_tuples(value) for name, value in values.items()})
        check_types(space)
        torch.tensor(space.encoder_mean), torch.tensor(space.encoder_std)  # of numbers
        return space

    def normalise(self, raw: Float[Tensor, "b c n y x"]) -> Float[Tensor, "b c n y x"]:
        """Normalised latents from those that the autoencoder's `decode` takes.

        Raises ValueError for more latent frames than the class has statistics of.
        """
        rows = (self.encoder_mean, self.encoder_std)
        mean, std = (torch.tensor(row, device=raw.device).view(len(row), -1, 1, 1) for row in rows)
        known, frames = mean.shape[1], raw.shape[2]
        if 1 < known < frames:
            raise ValueError(f"{self.encoder_class} knows at most {known} latent frames, got {frames}.")
        return ((raw.float() - mean[:, :frames]) / std[:, :frames]).to(raw.dtype)


@dataclass
class FrozenEncoder:
    """The encoder of an embedder, moved to where it is used; copies of a model share it.

    It is not a module, so that its weights are neither trained nor saved with the decoder. Without an
    embedder, of a `space` alone, it takes tensors without content.
    """

    embedder: Any  # an Embedder
    name: str
    space: LatentSpace = LatentSpace()

    def __post_init__(self) -> None:
        if self.embedder is not None:
            self.space = describe(self.embedder, self.name)

    def __deepcopy__(self, memo: dict[int, Any]) -> "FrozenEncoder":
        return self

    @torch.no_grad()
    def encode(
        self, video: Float[Tensor, "b 3 t h w"], tile: Tile | None = None
    ) -> Float[Tensor, "b c n y x"]:
        """Normalised latents of 1 or `chunk_frames` frames in [-1, 1]; of fake ones, fake latents.

        Raises ValueError for other frames.
        """
        b, _, t, h, w = video.shape
        r, s = self.space.temporal_compression_ratio, self.space.spatial_compression_ratio
        if isinstance(video, FakeTensor):  # operations are counted: those of the encoder are not the model's
            return video.new_empty(b, self.space.latent_channels, 1 + (t - 1) // r, h // s, w // s)
        for network in networks_of(self.embedder):
            if network.device != video.device:
                network.to(video.device)
        latents = self.embedder.encode(video, tile=tile).latent_dist.mode()
        if latents.shape[2] != 1 + (t - 1) // r:  # chunks of an embedder of this package
            raise ValueError(
                f"{self.name} encodes {self.embedder.chunk_frames} frames at once, got {t} as one clip."
            )
        return latents

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c n y x"]) -> Float[Tensor, "b 3 t h w"]:
        """The frames that the embedder's own decoder shows; of fake latents, fake ones."""
        b, _, n, y, x = latents.shape
        r, s = self.space.temporal_compression_ratio, self.space.spatial_compression_ratio
        if isinstance(latents, FakeTensor):
            return latents.new_empty(b, 3, 1 + (n - 1) * r, y * s, x * s)
        generators = [torch.Generator(latents.device).manual_seed(0) for _ in latents]
        return self.embedder.decode(latents, generator=generators, steps=1).sample


def load_frozen_encoder(
    name: str, device: torch.device, dtype: torch.dtype, window: int = DEFAULT_WINDOW
) -> FrozenEncoder:
    """The encoder of a name (see `LatentSpace.encoder`).

    `window`: frames that an autoencoder of diffusers gets at once, at most. Raises ValueError when there is
    no such autoencoder, or its latents are not those of 1 + r n frames.
    """
    embedder = read_encoder(name, device, dtype, window)
    check_causal(embedder, name)
    for network in networks_of(embedder):
        network.requires_grad_(False)
    return FrozenEncoder(embedder, name)


def read_encoder(name: str, device: torch.device, dtype: torch.dtype, window: int = DEFAULT_WINDOW) -> Any:
    """The autoencoder of a name, of diffusers or of this package. Raises ValueError when there is none."""
    location = find(place_of(name))
    if location is None:
        raise ValueError(f"There is no autoencoder {name}; give a folder, owner/name or owner/name/folder.")
    if location.class_name not in MODULES:
        return load(location, device, dtype, window)
    kind = getattr(import_module(MODULES[location.class_name]), location.class_name)
    if not issubclass(kind, nn.Module) or not hasattr(kind, "encode"):
        raise ValueError(f"{name} is a {location.class_name}, which encodes no videos; give another.")
    return kind.from_pretrained(Path(location.root) / location.folder, torch_dtype=dtype).to(device).eval()


def place_of(name: str) -> str:
    """The folder or repository of a name, without "diffusers:" and with / for the : before a folder."""
    place = name.removeprefix(PREFIX)
    root, colon, folder = place.rpartition(":")
    return f"{root}/{folder}" if colon and len(root) > 1 and not Path(place).exists() else place


def adapter_of(vae: nn.Module, window: int = DEFAULT_WINDOW) -> DiffusersAdapter:
    """The adapter of an autoencoder of diffusers. Raises ValueError for an unsupported class."""
    return adapter_class(vae)(vae, window)


def adapter_class(vae: nn.Module) -> type[DiffusersAdapter]:
    """The class of the adapter of an autoencoder of diffusers. Raises ValueError for an unsupported one."""
    name = type(vae).__name__
    if name not in ADAPTERS:
        raise ValueError(f"The autoencoder must be one of {', '.join(ADAPTERS)}, got {name}.")
    return ADAPTERS[name]


def networks_of(embedder: Embedder) -> list[nn.Module]:
    """The networks of an embedder."""
    return embedder.networks if isinstance(embedder, DiffusersAdapter) else [embedder]  # type: ignore[list-item]


def describe(embedder: Embedder, name: str) -> LatentSpace:
    """The latent space of an embedder."""
    mean, std = ((0.0,), (1.0,))
    if isinstance(embedder, DiffusersAdapter):
        mean, std = (_nested(moment) for moment in embedder.moments())
    return LatentSpace(
        encoder=name,
        encoder_class=type(networks_of(embedder)[0]).__name__,
        encoder_hash=encoder_hash(networks_of(embedder)[0]),
        temporal_compression_ratio=embedder.temporal_compression_ratio,
        spatial_compression_ratio=embedder.spatial_compression_ratio,
        latent_channels=embedder.latent_channels,
        chunk_frames=embedder.chunk_frames,
        encoder_mean=mean,
        encoder_std=std,
    )


@torch.no_grad()
def check_causal(embedder: Embedder, name: str) -> None:
    """Raise ValueError unless 1 frame becomes 1 latent frame, and 1 + r n frames 1 + n."""
    side, r, frames = (
        embedder.spatial_compression_ratio,
        embedder.temporal_compression_ratio,
        embedder.chunk_frames,
    )
    found = []
    for count in (1, frames):
        clip = torch.zeros(1, 3, count, 4 * side, 4 * side, device=embedder.device, dtype=embedder.dtype)
        found.append(embedder.encode(clip).latent_dist.mode().shape[2])
    if found != [1, 1 + (frames - 1) // r]:
        raise ValueError(
            f"{name} must be causal in time, 1 frame to 1 latent frame and {frames} to "
            f"{1 + (frames - 1) // r}; it makes {found[0]} and {found[1]}; choose another autoencoder."
        )


def encoder_hash(network: nn.Module) -> str:
    """16 hexadecimal digits over names, shapes and signs of the weights on which latents depend.

    Signs are the same in every precision, also in fp16, and those of other weights are others.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, values in sorted(network.state_dict().items()):
        if not name.startswith(DECODERS):
            digest.update(f"{name} {list(values.shape)}\n".encode())
            digest.update(values.to("cpu", torch.float32).signbit().numpy().tobytes())
    return digest.hexdigest()


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value


def _nested(moment: Float[Tensor, "c #n 1 1"]) -> tuple[Any, ...]:
    """A number for each channel, or one for each of its latent frames."""
    rows = moment[:, :, 0, 0].tolist()
    return tuple(row[0] if len(row) == 1 else tuple(row) for row in rows)
