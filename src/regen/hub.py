"""Folders for the Hugging Face Hub: weights, a card, and code by which diffusers alone loads them; upload.

The code comes in two kinds: modules that import this package, and self-contained ones (`regen.vendoring`).
By the conventions of diffusers, `auto_map` in a model's config.json names its module, for `AutoModel`; in
model_index.json `_class_name` and the models of a pipeline are pairs of a module, beside them, and a class.
With `subfolder`, `AutoModel` reads `auto_map` in model_index.json instead, which is one for all parts: so
each part has a module `part` with a class `Part`. All are loaded with `trust_remote_code=True`.
"""

import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, ModelCard, get_token
from huggingface_hub.errors import HfHubHTTPError

from regen.console import first_line
from regen.generate.load import find_generator
from regen.generate.pipeline import RegenTextToVideoPipeline
from regen.io import read_json, write_json, write_text
from regen.names import CONFIG, PIPELINE, find_folder, is_pipeline
from regen.pretrained.listing import GENERATOR, find_model, is_generator, stored_config
from regen.pretrained.models import CLASSES
from regen.train.card import USAGE, card_metadata, read_card, usage
from regen.vendoring import vendored

PIPELINE_CLASS = RegenTextToVideoPipeline.__name__
IMPORTING = '''"""{name} for diffusers; it needs the package regen."""

from regen import {name}

__all__ = ["{name}"]
'''
# The module's name makes files differ in length, by which Python's cache tells them apart.
PART_OF = "\nPart = {name}  # {module}\n"
FROM_TRANSFORMERS = (
    '"""The text encoder for `AutoModel` of diffusers."""\n\nfrom transformers import {name}\n'
)
MODEL_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json", "README.md")
TEXT_ENCODER_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*", flags=re.ASCII)
LOG_IN = "log in by `hf auth login`, or set $HF_TOKEN to a token that may write"


def write_code(folder: Path, self_contained: bool = False) -> None:
    """Add to a saved model or pipeline the code by which diffusers alone loads it.

    `self_contained`: code that works without this package. Raises ValueError when the folder holds neither.
    """
    if is_pipeline(folder):
        index: dict[str, Any] = read_json(folder / PIPELINE)
        models = {name: value[1] for name, value in index.items() if _is_model(value)}
        names = {PIPELINE_CLASS, *models.values()} if self_contained else set[str]()
        write_text(folder / "pipeline.py", _code(PIPELINE_CLASS, names))
        for part, class_name in models.items():
            text = _code(class_name, names) + _part_of(class_name)
            _write_model_code(folder / part, "part", class_name, text)
            index[part] = ["part", class_name]
        _, encoder = index.get("text_encoder") or (None, None)
        if encoder is not None:
            text = FROM_TRANSFORMERS.format(name=encoder) + _part_of(encoder)
            write_text(folder / "text_encoder" / "part.py", text)
        index |= {"_class_name": ["pipeline", PIPELINE_CLASS], "auto_map": {"AutoModel": "part.Part"}}
        write_json(folder / PIPELINE, index)
    else:
        class_name = stored_config(folder)["_class_name"]
        text = _code(class_name, {class_name} if self_contained else set())
        _write_model_code(folder, _module(class_name), class_name, text)


def _is_model(component: Any) -> bool:
    return isinstance(component, list) and component[1] in (*CLASSES, GENERATOR)


def _write_model_code(folder: Path, module: str, class_name: str, text: str) -> None:
    write_text(folder / f"{module}.py", text)
    config = read_json(folder / CONFIG) | {"auto_map": {"AutoModel": f"{module}.{class_name}"}}
    write_json(folder / CONFIG, config)


def _code(class_name: str, names: set[str]) -> str:
    """A module with this class, self-contained if `names` has the classes of its sources."""
    return vendored([class_name], names) if names else IMPORTING.format(name=class_name)


def _part_of(class_name: str) -> str:
    """The line that makes this class that of a part of a pipeline."""
    return PART_OF.format(name=class_name, module=_module(class_name))


def _module(class_name: str) -> str:
    """The name of the module of a class: autoencoder_one_dva of AutoencoderOneDVA."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", class_name).lower()


def stage(
    name: str, out: Path, repository: str, self_contained: bool = False, license: str | None = None
) -> Path:
    """Write the folder `out` as it is to be in a `repository` "owner/name": weights, code and card.

    A generator becomes a pipeline with its embedder and text encoder. `license` replaces that of the card.
    Raises ValueError when the model or one of its parts is missing, when there is no licence, and when `out`
    is not empty.
    """
    check_repository(repository)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} must be an empty or new folder; choose another one with --out.")
    source = find_folder(name)
    is_embedder = not is_pipeline(source) and not is_generator(source)
    folder = find_model(name) if is_embedder else find_generator(name)
    class_name = stored_config(folder)["_class_name"]
    card = _card(source if (source / "README.md").is_file() else folder, class_name, repository, license)
    out.mkdir(parents=True, exist_ok=True)
    if is_embedder:
        _copy(folder, out, MODEL_FILES)
    else:
        _stage_pipeline(name, folder, out)
    write_code(out, self_contained)
    write_text(out / "README.md", card)
    return out


def _stage_pipeline(name: str, generator: Path, out: Path) -> None:
    """Write a pipeline; models and text encoder are copied, so that their checksums stay."""
    pipeline = RegenTextToVideoPipeline.from_pretrained(name)
    pipeline.save_config(out)
    parts = {"generator": generator, "vae": Path(pipeline.vae.config["_name_or_path"])}
    for part, folder in parts.items():
        _copy(folder, out / part, [kind for kind in MODEL_FILES if kind != "README.md"])
    if pipeline.text_encoder is not None:
        encoder = Path(pipeline.text_encoder.config._name_or_path)
        _copy(encoder, out / "text_encoder", TEXT_ENCODER_FILES)
        tokenizer = Path(pipeline.tokenizer.name_or_path)
        _copy(tokenizer, out / "tokenizer", ["token*", "vocab*", "merges*", "special*", "*.model"])


def _copy(source: Path, target: Path, patterns: Any) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in (path for pattern in patterns for path in source.glob(pattern)):
        shutil.copyfile(path, target / path.name)


def _card(folder: Path, class_name: str, repository: str, license: str | None) -> str:
    """The card of a model with metadata for the Hub and instructions for this repository."""
    card: Any = read_card(folder)
    own = repository.partition("/")[2]
    if card is None:
        card = ModelCard(f"---\n{card_metadata(class_name, own, license).to_yaml()}\n---\n\n# {own}\n")
    wanted = card_metadata(class_name, own, license or card.data.license)
    for field in ("library_name", "pipeline_tag", "license"):
        setattr(card.data, field, getattr(wanted, field))
    if not card.data.license:
        raise ValueError(
            f"The card of {folder} has no licence, which others need; give one such as --license apache-2.0."
        )
    text, block = str(card), usage(class_name, repository, as_published=True)
    if USAGE.search(text):
        return USAGE.sub(lambda _: block, text, count=1)
    return re.sub(r"\n(?=## |\Z)", lambda _: f"\n{block}\n", text, count=1)


def push(
    name: str,
    repository: str,
    private: bool = False,
    self_contained: bool = False,
    license: str | None = None,
) -> str:
    """Upload a model as `stage` writes it; the address of its page. Raises ValueError when that fails."""
    check_repository(repository)
    if not get_token():
        raise ValueError(f"Publishing needs a token of the Hugging Face Hub; {LOG_IN}.")
    with TemporaryDirectory() as place:
        folder = stage(name, Path(place) / "model", repository, self_contained, license)
        api = HfApi()
        try:
            url = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"Upload {name}")
        except HfHubHTTPError as error:
            raise ValueError(f"The Hub refuses {repository} ({first_line(error)}); {LOG_IN}.") from None
        except Exception as error:  # huggingface_hub passes on those of its network library
            raise ValueError(f"The Hub can't be reached ({first_line(error)}); try again later.") from None
    return str(url)


def check_repository(repository: str) -> None:
    """Raise ValueError unless it is the name of a repository, "owner/name"."""
    if not REPOSITORY.fullmatch(repository):
        raise ValueError("The repository must be owner/name, of letters, digits, dots and dashes.")
