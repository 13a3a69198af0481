"""Models by name: describing and loading them; `regen.names` finds them.

A model is a folder with `config.json`, `*.safetensors` and a card, as diffusers' `save_pretrained` writes it.
"""

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from math import prod
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch
from diffusers import ModelMixin
from diffusers.utils import logging
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from regen.console import first_line
from regen.embedders.linear import AutoencoderLinear
from regen.embedders.magvit2 import AutoencoderMagvit2
from regen.embedders.model import STATISTICS
from regen.embedders.one_dva import AutoencoderOneDVA
from regen.embedders.regen import AutoencoderRegen
from regen.io import parse_json
from regen.names import CONFIG, find_folder, model_folders, published_models
from regen.runtime import tune_malloc

DEFAULT_MODEL = "regen-small-4x"
MAX_NAMES = 4  # in an error
GENERATOR = "LatentGenerator"  # the class of `regen.generate`, a higher layer; its weights are found here too

Autoencoder = AutoencoderRegen | AutoencoderMagvit2 | AutoencoderOneDVA | AutoencoderLinear
CLASSES: dict[str, type[Autoencoder]] = {embedder.__name__: embedder for embedder in get_args(Autoencoder)}
M = TypeVar("M", bound=ModelMixin)


@dataclass(frozen=True)
class ModelInfo:
    """An embedder as `regen models` lists it; `megabytes` on disk, `where` in words."""

    name: str
    where: str
    ratio: int
    latent_channels: int
    parameters: int
    megabytes: float


@dataclass(frozen=True)
class GeneratorInfo:
    """A generator of the latents of `embedder` as `regen models` lists it."""

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
    """Whether the model in `folder` is a generator of latents, not an embedder."""
    return _config(folder).get("_class_name") == GENERATOR


def find_model(name: str, part: str = "vae") -> Path:
    """The folder of a model, from the Hub if need be; of a whole pipeline that of its `part`.

    Raises ValueError when there is none of this name.
    """
    local = [folder.name for folder, _ in _folders() if not is_generator(folder)]
    closest = get_close_matches(name, {*local, *published_models()}) or local[:MAX_NAMES]
    known = ", ".join(closest) or "none"
    folder = find_folder(name, advice=f"give a name such as {known}, a folder, or owner/name")
    return folder if (folder / CONFIG).is_file() else folder / part


def load(name: str, device: torch.device, dtype: torch.dtype) -> Autoencoder:
    """The embedder `name` (or of the pipeline `name`) in evaluation mode.

    Raises ValueError when it is missing, damaged or a generator.
    """
    folder = find_model(name)
    if is_generator(folder):
        raise ValueError(f"{name} is a generator, not an embedder; use it with regen generate --model.")
    return load_as(_class_of(folder), folder, device, dtype)


def load_as(model_class: type[M], folder: Path, device: torch.device, dtype: torch.dtype) -> M:
    """The model in `folder`, which must be of this class. Raises ValueError when it is damaged."""
    try:
        with _no_larger_than(folder):
            model, loading = model_class.from_pretrained(
                folder, torch_dtype=dtype, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, AssertionError) as error:
        raise _damaged(folder, first_line(error)) from None
    wrong = [*loading["missing_keys"], *loading["unexpected_keys"], *loading["mismatched_keys"]]
    if wrong:
        raise _damaged(folder, f"{len(wrong)} weights do not match its config, such as {wrong[0]}")
    if not all(_are_statistics(model.config.get(name), model) for name in STATISTICS):
        raise _damaged(folder, f"{' and '.join(STATISTICS)} must be two rows of latent_channels numbers")
    return model.to(device).eval()


@contextmanager
def _no_larger_than(folder: Path) -> Iterator[None]:
    """Raise ValueError as soon as this thread constructs more parameters than the weights in `folder` have.

    So no config.json makes a model that takes memory or time which its weights do not justify.
    """
    shapes = [shape for path in folder.glob("*.safetensors") for shape in _shapes(path).values()]
    tensors, values = len(shapes), sum(map(prod, shapes))
    thread = threading.get_ident()

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal tensors, values
        if parameter is None or threading.get_ident() != thread:
            return
        tensors, values = tensors - 1, values - parameter.numel()
        if tensors < 0 or values < 0:
            raise ValueError("its config.json describes a larger model than its weights are of")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _are_statistics(rows: Any, model: ModelMixin) -> bool:
    """Whether this is a finite number for each channel, of the first latent frame and of the others."""
    try:
        values = torch.tensor([] if rows is None else rows, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        return False
    return rows is None or (
        values.shape == (2, model.config.latent_channels) and bool(values.isfinite().all())
    )


def silence_logging() -> None:
    """Show only a command's own output on the terminal, and keep freed memory from model to model."""
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    tune_malloc()


def weights_hash(name: str) -> str:
    """16 hexadecimal digits over names, types, shapes and bytes of the weights as stored in the files."""
    return _hash(stored_weights(find_model(name)))


def encoder_hash(name: str) -> str:
    """The same of the encoder alone and of its latent statistics.

    Models that differ in their decoders, such as one before and after post-training, have the same latents.
    Only values count, not their type: training stores fp32 and may start from weights stored in bf16.
    """
    folder = find_model(name)
    stored = stored_weights(folder)
    weights = ((tensor, values.float()) for tensor, values in stored if tensor.startswith("encoder."))
    config = _config(folder)
    return _hash(weights, json.dumps([config.get("latents_mean"), config.get("latents_std")]))


def _hash(weights: Iterable[tuple[str, Tensor]], salt: str = "") -> str:
    digest = hashlib.blake2b(salt.encode(), digest_size=8)
    for tensor, values in weights:
        digest.update(f"{tensor} {values.dtype} {list(values.shape)}\n".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def stored_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and values of each tensor, one at a time, sorted by name. Raises ValueError when damaged."""
    files = {tensor: path for path in folder.glob("*.safetensors") for tensor in _shapes(path)}
    for tensor, path in sorted(files.items()):
        with safe_open(path, framework="pt") as file:
            yield tensor, file.get_tensor(tensor)


def stored_config(folder: Path) -> dict[str, Any]:
    """The configuration with the class as `_class_name`. Raises ValueError if damaged or of unknown class."""
    if not is_generator(folder):
        _class_of(folder)
    return _config(folder)


def _shapes(path: Path) -> dict[str, list[int]]:
    """Name and shape of each tensor in a safetensors file, from its header."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _damaged(path.parent, first_line(error)) from None


def _folders() -> list[tuple[Path, str]]:
    """The folders of models that need no download, and where they are in words."""
    places = model_folders().items()
    found = [(path.parent, where) for place, where in places for path in sorted(place.glob(f"*/{CONFIG}"))]
    known = (*CLASSES, GENERATOR)
    return [(folder, where) for folder, where in found if _config(folder).get("_class_name") in known]


def _model_info(folder: Path, where: str) -> ModelInfo:
    config = _config(folder)
    try:
        ratio, channels = int(config["temporal_compression_ratio"]), int(config["latent_channels"])
    except KeyError as error:
        raise _damaged(folder, f"its config.json has no {error}") from None
    return ModelInfo(folder.name, where, ratio, channels, *_sizes(folder))


def _generator_info(folder: Path, where: str) -> GeneratorInfo:
    config = _config(folder)
    classes, spec = config.get("classes"), config.get("latent_spec") or {}
    condition = f"{len(classes)} classes" if classes else "text" if config.get("text_width") else "nothing"
    return GeneratorInfo(folder.name, where, str(spec.get("embedder", "?")), condition, *_sizes(folder))


def _sizes(folder: Path) -> tuple[int, float]:
    """Number of parameters, and megabytes on disk."""
    files = [*folder.glob("*.safetensors")]
    parameters = sum(prod(shape) for path in files for shape in _shapes(path).values())
    return parameters, sum(path.stat().st_size for path in files) / 1e6


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = parse_json((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"config.json can't be read, {first_line(error)}") from None
    if not isinstance(config, dict):
        raise _damaged(folder, "config.json must hold a JSON object")
    return config


def _class_of(folder: Path) -> type[Autoencoder]:
    name = _config(folder).get("_class_name")
    if name is None and (folder / "checkpoints").is_dir():
        raise ValueError(f"The training run in {folder} has no model yet; run its command again.")
    if not isinstance(name, str) or name not in CLASSES:
        raise ValueError(f"The model in {folder} must be one of {', '.join(CLASSES)}, got {name}.")
    return CLASSES[name]


def _damaged(folder: Path, reason: str) -> ValueError:
    return ValueError(f"The model in {folder} is damaged ({reason}); get or save it again.")
