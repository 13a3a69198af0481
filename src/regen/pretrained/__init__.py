"""Trained models by name: where they are, what they are, and how to load them.

A name means, in this order: a model bundled with the package (a folder beside this file), one in
`checkpoints/` of a source checkout, a local folder (of a model, or of a finished training run), a repository
on the Hugging Face Hub ("owner/name"). Each is a folder with `config.json`, `*.safetensors` and a card, as
`save_pretrained` of diffusers writes it.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin
from diffusers.utils import logging
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from regen.embedders.linear import AutoencoderLinear
from regen.embedders.magvit2 import AutoencoderMagvit2
from regen.embedders.one_dva import AutoencoderOneDVA
from regen.embedders.regen import AutoencoderRegen
from regen.runtime import keep_freed_memory

DEFAULT_MODEL = "regen-small-4x"
BUNDLED = Path(__file__).parent
CHECKPOINTS = BUNDLED.parents[2] / "checkpoints"  # exists in a source checkout only

Autoencoder = AutoencoderRegen | AutoencoderMagvit2 | AutoencoderOneDVA | AutoencoderLinear
CLASSES: dict[str, type[Autoencoder]] = {
    "AutoencoderRegen": AutoencoderRegen,
    "AutoencoderMagvit2": AutoencoderMagvit2,
    "AutoencoderOneDVA": AutoencoderOneDVA,
    "AutoencoderLinear": AutoencoderLinear,
}


M = TypeVar("M", bound=ModelMixin)
GENERATOR = "LatentGenerator"  # of `regen.generate`, which lies above: its weights are found here as well


@dataclass(frozen=True)
class ModelInfo:
    """What `regen models` tells about a model; `megabytes` on disk, `where` in words."""

    name: str
    where: str
    ratio: int
    latent_channels: int
    parameters: int
    megabytes: float


@dataclass(frozen=True)
class GeneratorInfo:
    """What `regen models` tells about a generator, which makes latents of `embedder` from text or classes."""

    name: str
    where: str
    embedder: str
    condition: str
    parameters: int
    megabytes: float


def available() -> list[ModelInfo]:
    """The embedders that need no download, described without loading them: bundled, then `checkpoints/`."""
    return [_model_info(folder, where) for folder, where in _folders() if not is_generator(folder)]


def available_generators() -> list[GeneratorInfo]:
    """The generators that need no download, described without loading them."""
    return [_generator_info(folder, where) for folder, where in _folders() if is_generator(folder)]


def is_generator(folder: Path) -> bool:
    """Whether the model in `folder` makes latents from a text or a class, instead of embedding videos."""
    return _config(folder).get("_class_name") == GENERATOR


def find_model(name: str) -> Path:
    """The folder of the model called `name`; one from the Hub is downloaded or taken from the cache.

    Raises ValueError when there is no such model or the download fails.
    """
    local = Path(name).expanduser()
    named = () if local.is_absolute() else (BUNDLED / name, CHECKPOINTS / name)
    for folder in (*named, local / "model", local):
        if (folder / "config.json").is_file():
            return folder
    if local.is_dir():
        raise ValueError(f"The folder {name} holds no model: there is no config.json in it.")
    known = ", ".join(model.name for model in available()) or "none"
    if name.count("/") != 1 or name.startswith(("/", ".", "~")):
        raise ValueError(
            f"There is no model {name}; use one of those here ({known}), a folder with a config.json, or "
            "a repository on the Hub as owner/name."
        )
    return _download(name, known)


def load(name: str, device: torch.device, dtype: torch.dtype) -> Autoencoder:
    """The embedder called `name` in evaluation mode, on `device` and in `dtype`.

    Raises ValueError in one sentence when it does not exist, can't be downloaded or is damaged, or is a
    generator.
    """
    folder = find_model(name)
    if is_generator(folder):
        raise ValueError(
            f"{name} is a generator, which embeds no videos; use it with regen generate --model, or give an "
            "embedder."
        )
    return load_as(_class_of(folder), folder, device, dtype)


def load_as(model_class: type[M], folder: Path, device: torch.device, dtype: torch.dtype) -> M:
    """The model in `folder`, of this class. Raises ValueError in one sentence when it is damaged."""
    try:
        model, loading = model_class.from_pretrained(
            folder, torch_dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, AssertionError) as error:
        raise _damaged(folder, _first_line(error)) from None
    wrong = [*loading["missing_keys"], *loading["unexpected_keys"], *loading["mismatched_keys"]]
    if wrong:
        raise _damaged(
            folder, f"{len(wrong)} weights are missing or do not fit its config, such as {wrong[0]}"
        )
    return model.to(device).eval()


def silence_logging() -> None:
    """Nothing but a command's own words on the terminal, and memory kept from model to model."""
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    keep_freed_memory()


def weights_hash(name: str) -> str:
    """16 hexadecimal digits over names, types, shapes and bytes of the stored weights of the model `name`.

    It is taken from the files, so it does not depend on the precision that a model is loaded in.
    """
    return _hash_of(find_model(name), prefix="", told="")


def encoder_hash(name: str) -> str:
    """The same of the encoder alone, and of the mean and deviation of its latents: models that differ in
    their decoders, such as one and what its post-training made of it, have the same latents. The values
    count, not the type they are stored in: a training stores fp32 and may begin with what is stored in bf16.
    """
    folder = find_model(name)
    config = _config(folder)
    told = json.dumps([config.get("latents_mean"), config.get("latents_std")])
    return _hash_of(folder, prefix="encoder.", told=told, only_values=True)


def _hash_of(folder: Path, prefix: str, told: str, only_values: bool = False) -> str:
    digest = hashlib.blake2b(told.encode(), digest_size=8)
    for tensor, values in stored_weights(folder):
        if tensor.startswith(prefix):
            values = values.float() if only_values else values
            digest.update(f"{tensor} {values.dtype} {list(values.shape)}\n".encode())
            digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def stored_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and values of each tensor of the model in `folder`, in the order of the names, one at a time.

    Raises ValueError when the files are damaged.
    """
    files = {tensor: path for path in _weight_files(folder) for tensor in _shapes(path)}
    for tensor, path in sorted(files.items()):
        with safe_open(path, framework="pt") as file:
            yield tensor, file.get_tensor(tensor)


def stored_config(folder: Path) -> dict[str, Any]:
    """The configuration of the model in `folder`, with the name of its class as `_class_name`.

    Raises ValueError when it is damaged or of a class that regen can't load.
    """
    if not is_generator(folder):
        _class_of(folder)
    return _config(folder)


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _shapes(path: Path) -> dict[str, list[int]]:
    """Name and shape of each tensor in a safetensors file, from its header."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _damaged(path.parent, _first_line(error)) from None


def _folders() -> list[tuple[Path, str]]:
    places = ((BUNDLED, "in the package"), (CHECKPOINTS, "checkpoints/"))
    return [(folder, where) for place, where in places for folder in _model_folders(place)]


def _model_folders(place: Path) -> list[Path]:
    return sorted(config.parent for config in place.glob("*/config.json"))


def _model_info(folder: Path, where: str) -> ModelInfo:
    config = _config(folder)
    try:
        ratio, channels = int(config["temporal_compression_ratio"]), int(config["latent_channels"])
    except KeyError as error:
        raise _damaged(folder, f"its config.json has no {error}") from None
    return ModelInfo(folder.name, where, ratio, channels, *_sizes(folder))


def _generator_info(folder: Path, where: str) -> GeneratorInfo:
    config = _config(folder)
    classes, source = config.get("classes"), config.get("latent_spec") or {}
    condition = f"{len(classes)} classes" if classes else "text" if config.get("text_width") else "nothing"
    return GeneratorInfo(folder.name, where, str(source.get("embedder", "?")), condition, *_sizes(folder))


def _sizes(folder: Path) -> tuple[int, float]:
    """Parameters, and megabytes on disk."""
    files = _weight_files(folder)
    parameters = sum(prod(shape) for path in files for shape in _shapes(path).values())
    return parameters, sum(path.stat().st_size for path in files) / 1e6


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"config.json can't be read, {_first_line(error)}") from None
    if not isinstance(config, dict):
        raise _damaged(folder, "config.json is no JSON object")
    return config


def _class_of(folder: Path) -> type[Autoencoder]:
    name = _config(folder).get("_class_name")
    if name is None and (folder / "checkpoints").is_dir():
        raise ValueError(
            f"The training run in {folder} has no model yet; run its command again to finish it."
        )
    if name not in CLASSES:
        raise ValueError(
            f"The model in {folder} is of the class {name or '(none)'}, which regen can't load; "
            f"it loads {', '.join(CLASSES)}."
        )
    return CLASSES[str(name)]


def _download(name: str, known: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except LocalEntryNotFoundError:
        reason = "could not be reached"
    except (OSError, HFValidationError):
        reason = "has none of that name that you may read"
    raise ValueError(
        f"There is no model {name}: it is none of those here ({known}), no local folder, "
        f"and the Hugging Face Hub {reason}."
    )


def _damaged(folder: Path, reason: str) -> ValueError:
    return ValueError(f"The model in {os.fspath(folder)} is damaged ({reason}); get or save it again.")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
