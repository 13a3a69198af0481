"""Video autoencoders of diffusers: adapters of each class, found by name.

A name means, in this order: a model of this package (`regen.pretrained`); a local folder with an autoencoder,
or with a pipeline, whose `vae` is taken; a repository "owner/name" on the Hugging Face Hub of either kind; a
folder inside one, "owner/name/folder"; a revision may follow the repository, "owner/name@revision". The
folder of a diffusion decoder is a model of its own, which encodes with the `vae` next to it. `_class_name` in
config.json selects the adapter, whose normalisation is that of the pipeline of its class in diffusers 0.42.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from einops import rearrange
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from jaxtyping import Float
from torch import Generator, Tensor, nn

from regen.embedders.diffusers_adapter import DEFAULT_WINDOW, DiffusersAdapter, Moments, Video
from regen.io import parse_json
from regen.names import LOADING_ERRORS, MIRROR, damaged, local_folders
from regen.public import MODULES
from regen.tiling import Tile

VAE = "vae"  # the folder of the autoencoder in a pipeline
CONFIG, SAFETENSORS = "config.json", "diffusion_pytorch_model"
WEIGHTS = (CONFIG, f"{SAFETENSORS}.safetensors", f"{SAFETENSORS}-*.safetensors", "*.safetensors.index.json")
DIFFUSION_DECODER = "LTX2VideoDiffusionDecoderModel"


class WanAdapter(DiffusersAdapter):
    """Wan 2.1 and 2.2."""

    @property
    def temporal_compression_ratio(self) -> int:
        return self.vae.config.scale_factor_temporal

    @property
    def latent_channels(self) -> int:
        return self.vae.config.z_dim

    def _widest_channels(self) -> float:
        config = self.vae.config
        return (config.decoder_base_dim or config.base_dim) / (config.patch_size or 1) ** 2


class CogVideoXAdapter(DiffusersAdapter):
    """CogVideoX: windows have 8n + 1 frames, since it processes 8 at a time."""

    @property
    def spatial_compression_ratio(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def frame_step(self) -> int:
        """An even number of latent frames would be decoded to a different number of frames."""
        return 2 * self.temporal_compression_ratio


class LTXAdapter(DiffusersAdapter):
    """LTX-Video and LTX-2: statistics stored with the weights; some decoders take a timestep or inject noise.

    The timestep is 0, and no noise is added to the latents, as the pipelines do by default. Noise that a
    decoder injects (version 0.9.1) follows from the generator's seed, independently for each sample.
    """

    def moments(self) -> Moments:
        mean = rearrange(self.vae.latents_mean.float(), "c -> c 1 1 1")
        std = rearrange(self.vae.latents_std.float(), "c -> c 1 1 1")
        return mean, std / self.vae.config.scaling_factor

    def _network(self, raw: Float[Tensor, "b c n y x"], generator: list[Generator]) -> Video:
        timestep = raw.new_zeros(1) if self.vae.config.timestep_conditioning else None
        devices = [raw.device] if raw.device.type == "cuda" else []
        frames = []
        with torch.random.fork_rng(devices):
            for sample, sample_generator in zip(raw.split(1), generator, strict=True):
                torch.manual_seed(sample_generator.initial_seed())
                frames.append(self.vae.decode(sample, timestep).sample)
        return torch.cat(frames)


class LTX2DiffusionAdapter(LTXAdapter):
    """LTX-2.5: encoded by its autoencoder, decoded by its diffusion decoder in any number of Euler steps.

    Its attention needs a minimum size and 11 frames, so an image is encoded as a window of equal frames.
    Tiles are those of the decoder, whose first stages see the whole picture. Its attention stores a score for
    every pair of tokens; for large pictures compile `decoder`, or use the NATTEN processor (see diffusers).
    """

    denoises = True

    def __init__(self, vae: Any, decoder: Any, window: int = DEFAULT_WINDOW) -> None:
        self.decoder = decoder.eval()
        super().__init__(vae, window)

    @property
    def name(self) -> str:
        return type(self.decoder).__name__

    @property
    def networks(self) -> list[nn.Module]:
        return [self.vae, self.decoder]

    def num_parameters(self) -> int:
        """Weights of the encoder and the diffusion decoder; the other decoder is not used."""
        encoder = sum(parameter.numel() for parameter in self.vae.encoder.parameters())
        return encoder + self.decoder.num_parameters()

    def encode(self, video: Float[Tensor, "b 3 t h w"], *, tile: Tile | None = None) -> AutoencoderKLOutput:
        if video.shape[2] == 1:
            video = video.expand(-1, -1, self.chunk_frames, -1, -1)
        return super().encode(video, tile=tile)

    def activation_bytes(self, frames: int, height: int, width: int) -> int:
        """Estimated memory, with a 32-bit score for every pair of tokens and head."""
        config = self.decoder.config
        tokens = frames * height * width // config.patch_size**2
        scores = 4 * tokens**2 * config.decoder_stage_channels[-1] // config.decoder_head_dim
        return super().activation_bytes(frames, height, width) + scores

    def _shortest(self) -> int:
        kernel, step = self.decoder.config.decoder_stage5_kernel[0], self.frame_step
        return 1 + max(1, -(-(kernel - 1) // step)) * step

    def _frames(
        self, raw: Float[Tensor, "b c n y x"], steps: int, generator: list[Generator], tile: Tile | None
    ) -> Video:
        side, min_side = self.spatial_compression_ratio, self._min_side()
        if min(raw.shape[3:]) < min_side:
            raise ValueError(
                f"{self.name} needs sides of at least {min_side * side} pixels, got "
                f"{raw.shape[3] * side} x {raw.shape[4] * side}; use a larger --size."
            )
        if tile is None:
            self.decoder.disable_tiling()
        else:
            self.decoder.enable_tiling(
                tile_sample_min_height=tile.height,
                tile_sample_min_width=tile.width,
                tile_sample_stride_height=tile.height - tile.overlap,
                tile_sample_stride_width=tile.width - tile.overlap,
            )
        return self.decoder.decode(raw, generator=generator, num_inference_steps=steps).sample.float()

    def _min_side(self) -> int:
        """Latent positions along a side: the attention window of every stage must fit into the picture."""
        config = self.decoder.config
        kernels = [*config.decoder_stage_kernels, config.decoder_stage5_kernel]
        needed, scale = 1, 1
        for kernel, stride in zip(kernels, [*config.decoder_upsample_strides, (1, 1, 1)], strict=True):
            needed = max(needed, -(-max(kernel[1:]) // scale))
            scale *= min(stride[1:])
        return needed


class CosmosAdapter(DiffusersAdapter):
    """Cosmos 1.0. The pipeline's additional factor 0.5 belongs to its scheduler and is left out."""

    def __init__(self, vae: Any, window: int = DEFAULT_WINDOW) -> None:
        super().__init__(vae, window)
        frames = 1 + (self.chunk_frames - 1) // self.temporal_compression_ratio
        known = self.moments()[0].shape[1]
        if 1 < known < frames:
            longest = 1 + (known - 1) * self.temporal_compression_ratio
            raise ValueError(f"{self.name} knows windows of at most {longest} frames, got {window}.")


ADAPTERS: dict[str, type[DiffusersAdapter]] = {
    "AutoencoderKLWan": WanAdapter,
    "AutoencoderKLHunyuanVideo": DiffusersAdapter,
    "AutoencoderKLHunyuanVideo15": DiffusersAdapter,
    "AutoencoderKLCogVideoX": CogVideoXAdapter,
    "AutoencoderKLLTXVideo": LTXAdapter,
    "AutoencoderKLLTX2Video": LTXAdapter,
    "AutoencoderKLMochi": DiffusersAdapter,
    "AutoencoderKLCosmos": CosmosAdapter,
}


@dataclass(frozen=True)
class ModelLocation:
    """A folder inside `root`, a local folder or a repository on the Hub."""

    root: str
    folder: str
    class_name: str | None

    def __str__(self) -> str:
        return f"{self.root}/{self.folder}".rstrip("/")


def load(
    location: ModelLocation, device: torch.device, dtype: torch.dtype, window: int = DEFAULT_WINDOW
) -> DiffusersAdapter:
    """The autoencoder of diffusers at a location, in evaluation mode.

    `window`: frames that it gets at once, at most. Raises ValueError when it can't be downloaded, is damaged,
    or has an unsupported class.
    """
    if location.class_name == DIFFUSION_DECODER:
        encoder = _at(location.root, VAE)
        if encoder is None or encoder.class_name != "AutoencoderKLLTX2Video":
            raise ValueError(f"{location} needs an AutoencoderKLLTX2Video in the folder {VAE} next to it.")
        vae, decoder = (_load(one, device, dtype) for one in (encoder, location))
        return LTX2DiffusionAdapter(vae, decoder, window)
    if location.class_name not in ADAPTERS:
        own = [name for name in MODULES if name.startswith("Autoencoder")]
        supported = ", ".join([*own, *ADAPTERS, DIFFUSION_DECODER])
        raise ValueError(f"{location} must be one of {supported}, got {location.class_name}.")
    return ADAPTERS[location.class_name](_load(location, device, dtype), window)


def find(name: str) -> ModelLocation | None:
    """First location that matches `name`; None when it is neither a folder nor a name on the Hub."""
    local = Path(name).expanduser()
    for folder in (*local_folders(name), local / VAE):
        if (folder / CONFIG).is_file():
            absolute = folder.resolve()
            return _at(str(absolute.parent), absolute.name)
    if MIRROR in os.environ:  # it has models of this package alone
        return None
    if local.is_dir() or name.count("/") not in (1, 2) or name.startswith(("/", ".", "~")):
        return None
    owner, repository, *inside = name.split("/")
    root = f"{owner}/{repository}"
    location = next(filter(None, (_at(root, folder) for folder in (inside or ("", VAE)))), None)
    if location is None:
        where = inside[0] if inside else f"its root or {VAE}"
        raise ValueError(f"{root} on the Hub has no {CONFIG} in {where}; give owner/name/folder.")
    return location


def _at(root: str, folder: str) -> ModelLocation | None:
    """The model in a folder of `root`; None without config.json. Raises ValueError if it can't be read."""
    place = _local(root, folder, (CONFIG,))
    try:
        config: Any = parse_json((place / folder / CONFIG).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise damaged(ModelLocation(root, folder, None), error) from None
    name = config.get("_class_name") if isinstance(config, dict) else None
    return ModelLocation(root, folder, name if isinstance(name, str) else None)


def _local(root: str, folder: str, patterns: Sequence[str]) -> Path:
    """`root` itself, or the local copy of a repository with the files of a folder of it.

    Raises ValueError, without trying again for long, when the Hub does not have it or can't be reached.
    """
    if Path(root).is_dir():
        return Path(root)
    files = [f"{folder}/{pattern}".lstrip("/") for pattern in patterns]
    repository, _, revision = root.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=files))
    except LocalEntryNotFoundError:
        raise ValueError(
            f"{root} is not a local folder, and the Hub is unreachable; give a folder."
        ) from None
    except (OSError, HFValidationError):
        raise ValueError(
            f"{root} is neither a local folder nor a readable repository on the Hub; check the name."
        ) from None
    except Exception as error:  # huggingface_hub passes on those of its network library
        raise ValueError(f"The Hub can't be reached ({type(error).__name__}); try again later.") from None


def _load(location: ModelLocation, device: torch.device, dtype: torch.dtype) -> Any:
    """The model with all its weights. Raises ValueError when it is damaged."""
    root = _local(location.root, location.folder, WEIGHTS)
    try:
        model, loading = getattr(diffusers, str(location.class_name)).from_pretrained(
            root,
            subfolder=location.folder,
            torch_dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
        )
    except LOADING_ERRORS as error:
        raise damaged(location, error) from None
    wrong = [*loading["missing_keys"], *loading["unexpected_keys"], *loading["mismatched_keys"]]
    if wrong:
        raise damaged(location, f"{len(wrong)} weights do not match its config, such as {wrong[0]}")
    return model.to(device)
