"""The models that are here, described from the headers of their files: nothing of it needs torch.

A model is a folder with `config.json`, `*.safetensors` and a card, as diffusers' `save_pretrained` writes it.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from regen.io import parse_json
from regen.names import CONFIG, damaged, find_folder, model_folders, published_models
from regen.public import MODULES

DEFAULT_MODEL = "regen-small-4x"
MAX_NAMES = 4  # in an error
GENERATOR = "LatentGenerator"  # the class of `regen.generate`, a higher layer; its weights are found here too
EMBEDDERS = tuple(name for name in MODULES if name.startswith("Autoencoder") or name == "RegenDecoder")


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


def stored_config(folder: Path) -> dict[str, Any]:
    """The configuration with the class as `_class_name`. Raises ValueError if damaged or of unknown class."""
    if not is_generator(folder):
        class_name_of(folder)
    return _config(folder)


def shapes_of(path: Path) -> dict[str, list[int]]:
    """Name and shape of each tensor in a safetensors file, from its header."""
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise damaged(path.parent, error) from None


def _folders() -> list[tuple[Path, str]]:
    """The folders of models that need no download, and where they are in words."""
    places = model_folders().items()
    found = [(path.parent, where) for place, where in places for path in sorted(place.glob(f"*/{CONFIG}"))]
    known = (*EMBEDDERS, GENERATOR)
    return [(folder, where) for folder, where in found if _config(folder).get("_class_name") in known]


def _model_info(folder: Path, where: str) -> ModelInfo:
    config = _config(folder)
    try:
        ratio, channels = int(config["temporal_compression_ratio"]), int(config["latent_channels"])
    except KeyError as error:
        raise damaged(folder, f"its config.json has no {error}") from None
    return ModelInfo(folder.name, where, ratio, channels, *_sizes(folder))


def _generator_info(folder: Path, where: str) -> GeneratorInfo:
    config = _config(folder)
    classes, spec = config.get("classes"), config.get("latent_spec") or {}
    condition = f"{len(classes)} classes" if classes else "text" if config.get("text_width") else "nothing"
    return GeneratorInfo(folder.name, where, str(spec.get("embedder", "?")), condition, *_sizes(folder))


def _sizes(folder: Path) -> tuple[int, float]:
    """Number of parameters, and megabytes on disk."""
    files = [*folder.glob("*.safetensors")]
    parameters = sum(prod(shape) for path in files for shape in shapes_of(path).values())
    return parameters, sum(path.stat().st_size for path in files) / 1e6


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = parse_json((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise damaged(folder, error) from None
    if not isinstance(config, dict):
        raise damaged(folder, "config.json must hold a JSON object")
    return config


def class_name_of(folder: Path) -> str:
    """The class of an embedder. Raises ValueError when the folder holds no model of this package."""
    name = _config(folder).get("_class_name")
    if name is None and (folder / "checkpoints").is_dir():
        raise ValueError(f"The training run in {folder} has no model yet; run its command again.")
    if not isinstance(name, str) or name not in EMBEDDERS:
        raise ValueError(f"The model in {folder} must be one of {', '.join(EMBEDDERS)}, got {name}.")
    return name
