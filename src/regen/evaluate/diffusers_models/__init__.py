"""Video autoencoders of diffusers as embedders: find and load one by name.

A name means, in this order: a model of this package (`regen.pretrained`); a local folder with an autoencoder,
or with a pipeline, whose `vae` is taken; a repository "owner/name" on the Hugging Face Hub of either kind; a
folder inside one, "owner/name/folder". The folder of a diffusion decoder is a model of its own, which encodes
with the `vae` next to it. `_class_name` in config.json selects the adapter.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError

from regen.codec.chunks import Embedder
from regen.console import first_line
from regen.evaluate.diffusers_models.base import DEFAULT_WINDOW
from regen.evaluate.diffusers_models.classes import ADAPTERS, LTX2DiffusionAdapter
from regen.pretrained import models

VAE = "vae"  # the folder of the autoencoder in a pipeline
CONFIG = "config.json"
DIFFUSION_DECODER = "LTX2VideoDiffusionDecoderModel"


@dataclass(frozen=True)
class ModelLocation:
    """A folder inside `root`, a local folder or a repository on the Hub."""

    root: str
    folder: str
    class_name: str | None

    def __str__(self) -> str:
        return f"{self.root}/{self.folder}".rstrip("/")


def load_embedder(
    name: str, device: torch.device, dtype: torch.dtype, window: int = DEFAULT_WINDOW
) -> Embedder:
    """Load a model of this package or of diffusers in evaluation mode.

    `window`: frames that a model of diffusers gets at once, at most. Raises ValueError when the model does
    not exist, can't be downloaded, is damaged, or has an unsupported class.
    """
    location = _find(name)
    if location is None or location.class_name is None or location.class_name in models.CLASSES:
        return models.load(name, device, dtype)
    if location.class_name == DIFFUSION_DECODER:
        encoder = _at(location.root, VAE)
        if encoder is None or encoder.class_name != "AutoencoderKLLTX2Video":
            raise ValueError(f"{location} needs an AutoencoderKLLTX2Video in the folder {VAE} next to it.")
        vae, decoder = (_load(one, device, dtype) for one in (encoder, location))
        return LTX2DiffusionAdapter(vae, decoder, window)
    if location.class_name not in ADAPTERS:
        supported = ", ".join([*models.CLASSES, *ADAPTERS, DIFFUSION_DECODER])
        raise ValueError(f"{location} must be one of {supported}, got {location.class_name}.")
    return ADAPTERS[location.class_name](_load(location, device, dtype), window)


def _find(name: str) -> ModelLocation | None:
    """First location that matches `name`; None when it is neither a folder nor a name on the Hub."""
    local = Path(name).expanduser()
    for folder in (*models.candidate_folders(name), local / VAE):
        if (folder / CONFIG).is_file():
            absolute = folder.resolve()
            return _at(str(absolute.parent), absolute.name)
    if local.is_dir() or name.count("/") not in (1, 2) or name.startswith(("/", ".", "~")):
        return None
    owner, repository, *inside = name.split("/")
    locations = (_at(f"{owner}/{repository}", folder) for folder in (inside or ("", VAE)))
    location = next((location for location in locations if location is not None), None)
    if location is None:
        where = inside[0] if inside else f"its root or {VAE}"
        raise ValueError(
            f"{owner}/{repository} on the Hub has no {CONFIG} in {where}; give owner/name/folder."
        )
    return location


def _at(root: str, folder: str) -> ModelLocation | None:
    """The model in a folder of `root`; None without config.json. Raises ValueError if it can't be read."""
    try:
        file = Path(root) / folder / CONFIG
        if not Path(root).is_dir():
            file = Path(hf_hub_download(root, f"{folder}/{CONFIG}".lstrip("/")))
        config: Any = json.loads(file.read_text())
    except LocalEntryNotFoundError:
        raise ValueError(f"{root} is not a local folder, and the Hub is unreachable.") from None
    except (EntryNotFoundError, FileNotFoundError):
        return None
    except (OSError, HFValidationError):
        raise ValueError(f"{root} is neither a local folder nor a readable repository on the Hub.") from None
    except ValueError as error:
        raise _damaged(ModelLocation(root, folder, None), error) from None
    return ModelLocation(root, folder, config.get("_class_name") if isinstance(config, dict) else None)


def _load(location: ModelLocation, device: torch.device, dtype: torch.dtype) -> Any:
    """The model with all its weights. Raises ValueError when it is damaged."""
    try:
        model, loading = getattr(diffusers, str(location.class_name)).from_pretrained(
            location.root,
            subfolder=location.folder,
            torch_dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise _damaged(location, error) from None
    wrong = [*loading["missing_keys"], *loading["unexpected_keys"], *loading["mismatched_keys"]]
    if wrong:
        raise _damaged(
            location, ValueError(f"{len(wrong)} weights do not fit its config, such as {wrong[0]}")
        )
    return model.to(device)


def _damaged(location: ModelLocation, error: Exception) -> ValueError:
    return ValueError(f"The model in {location} can't be loaded ({first_line(error)}); get or save it again.")
