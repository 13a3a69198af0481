"""Names of models: from a name to a folder, which a published model is downloaded to.

A name means, in this order: a model in the package; one in `checkpoints/` of a source checkout; one in a
folder of $REGEN_MODELS (several are separated as in $PATH); a local folder, of a model or of a finished run;
a published model of `pretrained/manifest.json`; a repository of the Hugging Face Hub, "owner/name" or
"owner/name@revision". The last two are taken from the cache of huggingface_hub where they are in it.
$REGEN_MIRROR, the URL of a folder such as file:///srv/models with owner/name/config.json in it, stands in for
the Hub.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError

from regen.console import first_line
from regen.io import check_sha256, read_json

BUNDLED = Path(__file__).parent / "pretrained"
CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"  # exists in a source checkout only
MANIFEST = BUNDLED / "manifest.json"
MODELS, MIRROR = "REGEN_MODELS", "REGEN_MIRROR"  # environment variables
CONFIG, PIPELINE = "config.json", "model_index.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
MODEL_FILES = ("*.json", "*.safetensors")
PIPELINE_PARTS = ("generator", "vae", "text_encoder", "tokenizer")
PIPELINE_FILES = (*MODEL_FILES, *(f"{part}/*" for part in PIPELINE_PARTS))
HUB_OPTIONS = frozenset({"token", "cache_dir", "proxies", "force_download", "local_files_only"})
PLAIN_OPTIONS = {"torch_dtype", "subfolder", "variant", "revision", "use_safetensors", "output_loading_info"}
ADVICE = "give a name (see regen models), a folder, or owner/name"
# Messages of diffusers about a damaged model, and what they mean; groups of the patterns are inserted.
IN_WORDS = {
    r"Unable to load weights from checkpoint": "its weights are cut off, or not in safetensors",
    r"no file named (\S+) found": "it has no {}",
    r"because (\S+) expected shape": "{} has another shape than its config.json says",
}
LOADING_ERRORS = (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, AssertionError)
"""What libraries raise for damaged models."""


@dataclass(frozen=True)
class PublishedModel:
    """A model on the Hub: its kind (embedder or generator) and class, its repository and revision, and
    SHA-256 and bytes of its weights."""

    kind: str
    class_name: str
    repository: str
    revision: str
    sha256: str
    size: int


def published_models() -> Mapping[str, PublishedModel]:
    """The published models by name."""
    content = read_json(MANIFEST) if MANIFEST.is_file() else {}
    return {name: PublishedModel(**entry) for name, entry in content.items()}


def model_folders() -> dict[Path, str]:
    """The folders whose models need no download and no path, in order, and what they are in words."""
    own = (Path(part).expanduser() for part in os.environ.get(MODELS, "").split(os.pathsep) if part)
    return {BUNDLED: "in the package", CHECKPOINTS: "checkpoints/"} | {folder: str(folder) for folder in own}


def local_folders(name: str) -> tuple[Path, ...]:
    """The local folders that a name can mean, in the order in which they are tried.

    Raises ValueError for an empty name.
    """
    if not name.strip():
        raise ValueError(f"The name of a model must not be empty; {ADVICE}.")
    local = Path(name).expanduser()
    named = () if local.is_absolute() else tuple(folder / name for folder in model_folders())
    return (*named, local / "model", local)


def find_folder(
    name: str, kind: str = "model", advice: str = ADVICE, patterns: Sequence[str] = PIPELINE_FILES
) -> Path:
    """The folder of a model or pipeline, downloaded if need be.

    Raises ValueError, which names the `kind` of model and ends in `advice`, when there is none of this name.
    """
    for folder in local_folders(name):
        if any((folder / file).is_file() for file in (CONFIG, PIPELINE)):
            return folder
    if Path(name).expanduser().is_dir():
        raise ValueError(f"The folder {name} holds no {kind}: it has no {CONFIG}; {advice}.")
    if (model := published_models().get(name)) is not None:
        return _published(name, model)
    return download(name, kind, advice, patterns)


def _published(name: str, model: PublishedModel) -> Path:
    """The folder of a published model whose weights have the checksum of the manifest."""
    megabytes = f"{model.size / 1e6:.1f} MB"
    advice = f"put a folder {name} ({megabytes}) into a folder named by ${MODELS}, or connect once"
    place = f"{model.repository}@{model.revision}"
    folder = _cached(model) or download(place, "published model", advice, PIPELINE_FILES)
    check_sha256(_weights(folder), model.sha256, f"delete {folder} and try again")
    return folder


def _cached(model: PublishedModel) -> Path | None:
    """The snapshot in the cache, if its weights are there."""
    options: dict[str, Any] = {"revision": model.revision, "local_files_only": True}
    try:
        folder = Path(snapshot_download(model.repository, allow_patterns=[*PIPELINE_FILES], **options))
    except (OSError, ValueError):
        return None
    return folder if _weights(folder).is_file() else None


def _weights(folder: Path) -> Path:
    """The weights of a model, or of the generator of a pipeline."""
    return (folder / "generator" if is_pipeline(folder) else folder) / WEIGHTS


def download(
    name: str,
    kind: str,
    advice: str,
    patterns: Sequence[str] = MODEL_FILES,
    revision: str | None = None,
    subfolder: str = "",
) -> Path:
    """The folder of a repository "owner/name[@revision]", from the cache where it is up to date.

    Only the files at its root, or in `subfolder`, are downloaded, but all of a pipeline of regen. Raises
    ValueError, which names the `kind` of model and ends in `advice`, when there is no such repository.
    """
    repository, _, tagged = name.partition("@")
    if repository.count("/") != 1 or repository.startswith(("/", ".", "~")):
        raise ValueError(f"There is no {kind} {name}; {advice}.")
    revision = revision or tagged or None
    if mirror := os.environ.get(MIRROR):
        return _mirrored(mirror, repository, revision, kind, advice)
    options: dict[str, Any] = {"revision": revision}
    try:
        if subfolder:
            files = [f"{subfolder}/{pattern}" for pattern in patterns]
            return Path(snapshot_download(repository, allow_patterns=files, **options))
        root = [pattern for pattern in patterns if "/" not in pattern]
        folder = Path(snapshot_download(repository, allow_patterns=root, ignore_patterns=["*/*"], **options))
        if is_pipeline(folder) and len(root) < len(patterns):
            folder = Path(snapshot_download(repository, allow_patterns=[*patterns], **options))
        return folder
    except LocalEntryNotFoundError:
        reason = "the Hub could not be reached"
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
        reason = "the Hub has none of this name that you may read"
    except Exception as error:  # huggingface_hub passes on those of its network library
        reason = f"the Hub could not be reached ({type(error).__name__})"
    raise ValueError(f"There is no {kind} {name} here, and {reason}; {advice}.")


def _mirrored(mirror: str, repository: str, revision: str | None, kind: str, advice: str) -> Path:
    """The folder of a repository in a mirror, with @revision in its name unless that is "main"."""
    parts = urlsplit(mirror)
    if parts.scheme != "file":
        raise ValueError(f"${MIRROR} must be the URL of a folder such as file:///srv/models, got {mirror}.")
    suffix = "" if revision in (None, "main") else f"@{revision}"
    folder = Path(url2pathname(unquote(parts.path))) / f"{repository}{suffix}"
    if not folder.is_dir():
        raise ValueError(f"There is no {kind} {repository}{suffix} in the mirror {mirror}; {advice}.")
    return folder


def is_pipeline(folder: Path) -> bool:
    """Whether the folder holds a whole pipeline of regen: generator, embedder, and text encoder if any."""
    if not (folder / PIPELINE).is_file():
        return False
    return "generator" in read_json(folder / PIPELINE) and "vae" in read_json(folder / PIPELINE)


def resolve(name: str | os.PathLike[str], options: Mapping[str, Any]) -> str | os.PathLike[str]:
    """The folder that `from_pretrained` loads for a name, or `name` itself where diffusers has to find it.

    `options` are those of `from_pretrained`; with one of `HUB_OPTIONS`, repositories are left to diffusers.
    Raises ValueError when there is no model of this name.
    """
    text, subfolder = str(name), options.get("subfolder") or ""
    for folder in local_folders(text):
        if any((folder / subfolder / file).is_file() for file in (CONFIG, PIPELINE)):
            return folder
    if Path(text).expanduser().is_dir():
        return name
    if text in published_models():
        return _published(text, published_models()[text])
    if any(options.get(option) for option in HUB_OPTIONS):
        return name
    variant, revision = options.get("variant"), options.get("revision")
    patterns = (*PIPELINE_FILES, f"*.{variant}.*") if variant else PIPELINE_FILES
    return download(text, "model", ADVICE, patterns, revision, subfolder)


class DamagedModelError(ValueError):
    """A model that is there but can't be loaded."""


def damaged(place: object, reason: str | BaseException) -> DamagedModelError:
    """The error of a model that can't be loaded, for a reason in words or the error of a library."""
    if isinstance(reason, DamagedModelError):
        return reason
    if isinstance(reason, BaseException):
        reason = _in_words(reason)
    return DamagedModelError(f"The model in {place} is damaged ({reason}); get or save it again.")


def _in_words(error: BaseException) -> str:
    if isinstance(error, SafetensorError):
        return "its weights are cut off, or not in safetensors"
    if isinstance(error, json.JSONDecodeError):
        return f"its {CONFIG} is not JSON"
    for pattern, words in IN_WORDS.items():
        if found := re.search(pattern, str(error)):
            return words.format(*found.groups())
    return first_line(error)


def _check_parts(folder: Path) -> None:
    """Raise ValueError when an index of the weights in a local folder names files outside of it."""
    for index in folder.glob("*.index.json"):
        content = read_json(index)
        parts = content.get("weight_map") if isinstance(content, dict) else None
        names = parts.values() if isinstance(parts, dict) else [None]
        if not all(isinstance(name, str) and re.fullmatch(r"[\w.-]+\.safetensors", name) for name in names):
            raise ValueError(f"{index} must name files that end in .safetensors; get the model again.")


class WithoutAutoMap:
    """A model or pipeline of diffusers that takes no notice of `auto_map` (see `regen.hub`)."""

    @classmethod
    def extract_init_dict(cls, config_dict: Mapping[str, Any], **options: Any) -> Any:
        """As diffusers, without `auto_map`, which is for its `AutoModel` alone."""
        own = {name: value for name, value in config_dict.items() if name != "auto_map"}
        return super().extract_init_dict(own, **options)  # type: ignore[misc]


def _check_class(name: str | os.PathLike[str], folder: Path, wanted: type) -> None:
    """Raise ValueError when a local folder has no model, or says that it is of another class."""
    if not folder.is_dir():  # diffusers has to find it
        return
    if not (folder / CONFIG).is_file():
        raise ValueError(f"The folder {folder} holds no model: it has no {CONFIG}; {ADVICE}.")
    content = read_json(folder / CONFIG)
    found = content.get("_class_name") if isinstance(content, dict) else None
    if not isinstance(found, str):
        raise damaged(folder, f"its {CONFIG} does not name its class")
    if found not in {base.__name__ for base in wanted.__mro__}:
        raise ValueError(f"{name} is of class {found}, not {wanted.__name__}; load it by its own class.")


class NamedModel(WithoutAutoMap):
    """A model of diffusers whose `from_pretrained` takes all names of models (see `regen.names`)."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Any) -> Any:
        """The model of this name, in evaluation mode, with the options of diffusers: `revision`, `subfolder`,
        `variant`, `torch_dtype` and so on. Only JSON and safetensors are read, never a pickle. Raises
        ValueError when there is no such model, and for a damaged one."""
        if options.get("use_safetensors") is False:  # pipelines of diffusers give None
            raise ValueError("Weights must be in safetensors, which run no code; leave out use_safetensors.")
        found = resolve(pretrained_model_name_or_path, options)
        folder = Path(found, options.get("subfolder") or "")
        _check_parts(folder)
        _check_class(pretrained_model_name_or_path, folder, cls)
        try:
            model, info = super().from_pretrained(  # type: ignore[misc]
                found, **options | {"use_safetensors": True, "output_loading_info": True}
            )
        except LOADING_ERRORS as error:
            # Other options may be wrong themselves; memory may be short.
            if not folder.is_dir() or options.keys() - PLAIN_OPTIONS or "out of memory" in str(error):
                raise
            raise damaged(folder, error) from error
        random = [] if "ignore_mismatched_sizes" in options else info["missing_keys"]
        if random:
            raise damaged(folder, f"it has no weights for {len(random)} tensors, such as {min(random)}")
        return (model, info) if options.get("output_loading_info") else model
