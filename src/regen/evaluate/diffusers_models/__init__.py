"""Other video autoencoders as contestants: any of diffusers' classes below, measured like our own models.

A name means, in this order: a model of this package (`regen.pretrained`); a local folder with an autoencoder
or with a pipeline, whose `vae` is taken; a repository on the Hugging Face Hub, "owner/name", of either kind;
a folder inside one, "owner/name/folder". The folder of a diffusion decoder names a contestant of its own: it
is encoded by the `vae` beside it. What a class is follows from `_class_name` in its config.json.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLCosmos,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTX2Video,
    AutoencoderKLLTXVideo,
    AutoencoderKLMochi,
    AutoencoderKLWan,
    LTX2VideoDiffusionDecoderModel,
    ModelMixin,
)
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError

from regen.codec.chunks import Embedder
from regen.evaluate.diffusers_models.base import DEFAULT_WINDOW, DiffusersAdapter
from regen.evaluate.diffusers_models.classes import (
    CogVideoXAdapter,
    CosmosAdapter,
    LTX2DiffusionAdapter,
    LTXAdapter,
    MochiAdapter,
    WanAdapter,
)
from regen.pretrained import models

VAE = "vae"  # the folder of the autoencoder in a pipeline
CONFIG = "config.json"
ADAPTERS: dict[str, tuple[type[ModelMixin], type[DiffusersAdapter]]] = {
    "AutoencoderKLWan": (AutoencoderKLWan, WanAdapter),
    "AutoencoderKLHunyuanVideo": (AutoencoderKLHunyuanVideo, DiffusersAdapter),
    "AutoencoderKLHunyuanVideo15": (AutoencoderKLHunyuanVideo15, DiffusersAdapter),
    "AutoencoderKLCogVideoX": (AutoencoderKLCogVideoX, CogVideoXAdapter),
    "AutoencoderKLLTXVideo": (AutoencoderKLLTXVideo, LTXAdapter),
    "AutoencoderKLLTX2Video": (AutoencoderKLLTX2Video, LTXAdapter),
    "AutoencoderKLMochi": (AutoencoderKLMochi, MochiAdapter),
    "AutoencoderKLCosmos": (AutoencoderKLCosmos, CosmosAdapter),
}
DIFFUSION_DECODER = "LTX2VideoDiffusionDecoderModel"


@dataclass(frozen=True)
class ModelLocation:
    """Where a model is: a folder inside `root`, which is a local folder or a repository on the Hub."""

    root: str
    folder: str
    class_name: str | None

    def __str__(self) -> str:
        return f"{self.root}/{self.folder}".rstrip("/")


def load_embedder(
    name: str, device: torch.device, dtype: torch.dtype, window: int = DEFAULT_WINDOW
) -> Embedder:
    """The contestant called `name`, a model of this package or a peer, in evaluation mode.

    `window`: a peer is given at most this many frames at once. Raises ValueError in one sentence when there
    is no such model, it can't be downloaded, is damaged, or is of a class that is not supported.
    """
    place = _find(name)
    if place is None or place.class_name is None or place.class_name in models.CLASSES:
        return models.load(name, device, dtype)
    if place.class_name == DIFFUSION_DECODER:
        encoder = _at(place.root, VAE)
        if encoder is None or encoder.class_name != "AutoencoderKLLTX2Video":
            raise ValueError(
                f"The diffusion decoder in {place} needs an encoder, an AutoencoderKLLTX2Video in the folder "
                f"{VAE} beside it, which is not there."
            )
        vae = _load(AutoencoderKLLTX2Video, encoder, device, dtype)
        decoder = _load(LTX2VideoDiffusionDecoderModel, place, device, dtype)
        return LTX2DiffusionAdapter(vae, decoder, window)
    if place.class_name not in ADAPTERS:
        known = ", ".join([*models.CLASSES, *ADAPTERS, DIFFUSION_DECODER])
        raise ValueError(
            f"The model in {place} is of the class {place.class_name}, which is not supported; "
            f"supported are {known}."
        )
    model_class, adapter = ADAPTERS[place.class_name]
    return adapter(_load(model_class, place, device, dtype), window)


def _find(name: str) -> ModelLocation | None:
    """The first place that `name` can mean; None where it is no folder and no name on the Hub."""
    local = Path(name).expanduser()
    for folder in (*models.candidate_folders(name), local / VAE):
        if (folder / CONFIG).is_file():
            absolute = folder.resolve()
            return _at(str(absolute.parent), absolute.name)
    if local.is_dir() or name.count("/") not in (1, 2) or name.startswith(("/", ".", "~")):
        return None
    owner, repository, *inside = name.split("/")
    places = (_at(f"{owner}/{repository}", folder) for folder in (inside or ("", VAE)))
    found = next((place for place in places if place is not None), None)
    if found is None:
        raise ValueError(
            f"The repository {owner}/{repository} on the Hugging Face Hub has no {CONFIG} in "
            f"{inside[0] if inside else f'itself or in {VAE}'}; name a model's folder as owner/name/folder."
        )
    return found


def _at(root: str, folder: str) -> ModelLocation | None:
    """The model in a folder of `root`, None where there is no config.json; ValueError if it can't be read."""
    try:
        file = Path(root) / folder / CONFIG
        if not Path(root).is_dir():
            file = Path(hf_hub_download(root, f"{folder}/{CONFIG}".lstrip("/")))
        config: Any = json.loads(file.read_text())
    except LocalEntryNotFoundError:
        raise ValueError(
            f"There is no folder {root}, and the Hugging Face Hub could not be reached; check the connection."
        ) from None
    except (EntryNotFoundError, FileNotFoundError):
        return None
    except (OSError, HFValidationError):
        raise ValueError(
            f"There is no folder {root}, and the Hugging Face Hub has none of that name that you may read."
        ) from None
    except ValueError as error:
        raise _damaged(ModelLocation(root, folder, None), error) from None
    return ModelLocation(root, folder, config.get("_class_name") if isinstance(config, dict) else None)


def _load(model_class: Any, place: ModelLocation, device: torch.device, dtype: torch.dtype) -> Any:
    """The model with all its weights, or a ValueError in one sentence."""
    try:
        model, loading = model_class.from_pretrained(
            place.root,
            subfolder=place.folder,
            torch_dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise _damaged(place, error) from None
    wrong = [*loading["missing_keys"], *loading["unexpected_keys"], *loading["mismatched_keys"]]
    if wrong:
        raise _damaged(place, ValueError(f"{len(wrong)} weights do not fit its config, such as {wrong[0]}"))
    return model.to(device)


def _damaged(place: ModelLocation, error: Exception) -> ValueError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return ValueError(f"The model in {place} can't be loaded ({reason}); get or save it again.")
