"""Model cards: what a training writes beside the weights, with metadata for the Hugging Face Hub."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from regen.console import first_line
from regen.names import published_models
from regen.runtime import cpu_name
from regen.train.distributed import DistributedContext
from regen.train.run_summary import Run, read_run

USAGE = re.compile(r"<!-- usage -->\n.*?<!-- end of usage -->\n", flags=re.DOTALL)
EMBEDDER, GENERATOR = "video-to-video", "text-to-video"  # tasks of the Hub
LICENCE_LINES = 60  # of a file beside the data
METRICS = {
    "evaluation/psnr": ("psnr", "PSNR (dB), one step"),
    "evaluation/validation_loss": ("loss", "Validation loss"),
}


@dataclass(frozen=True)
class Paper:
    """The method of a class of models, and its paper on arXiv."""

    method: str
    arxiv: str | None
    tags: tuple[str, ...]


PAPERS = {
    "AutoencoderRegen": Paper("REGEN", "2503.08665", ("video", "autoencoder", "diffusion")),
    "AutoencoderOneDVA": Paper("One-DVA", "2602.04220", ("video", "autoencoder", "diffusion")),
    "AutoencoderMagvit2": Paper("MAGVIT-v2", "2310.05737", ("video", "autoencoder")),
    "AutoencoderLinear": Paper("Linear embedder with overlapping windows", None, ("video", "autoencoder")),
    "RegenDecoder": Paper("REGEN's decoder", "2503.08665", ("video", "decoder", "diffusion")),
    "LatentGenerator": Paper("REGEN, Sec. 4", "2503.08665", ("text-to-video", "diffusion")),
}


@dataclass(frozen=True)
class CardOptions:
    """What only the user knows: the licence of the weights, and the command of the training."""

    license: str | None = None
    command: tuple[str, ...] = ()


def model_card(
    model: ModelMixin,
    run: Path,
    data: Sequence[str | Path],
    context: DistributedContext,
    options: CardOptions,
    base_model: str | None = None,
) -> str:
    """The card of a finished run: metadata, use, training, data and results, from its log and configuration.

    `data` are the folders, shards and sets of the training; a file LICEN[CS]E* in a folder is quoted.
    `base_model` is the name of the model that the training started from or whose latents it generates; it is
    entered if it is published. Absolute paths are shortened to their last part.
    """
    trained, paper = read_run(run, run.resolve().name), PAPERS[type(model).__name__]
    results = [
        EvalResult(
            task_type=task_of(model),
            dataset_type="held-out",
            dataset_name="Held-out samples of the training data",
            metric_type=kind,
            metric_value=round(values[-1], 4),
            metric_name=name,
        )
        for key, (kind, name) in METRICS.items()
        if (values := trained.series(key)[1])
    ]
    metadata = card_metadata(type(model).__name__, trained.name, options.license, base_model, results)
    parameters = sum(tensor.numel() for tensor in model.parameters())
    link = "" if paper.arxiv is None else f" ([arXiv:{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv}))"
    what = _describe(model)
    parts = [
        f"---\n{metadata.to_yaml()}\n---",
        f"# {trained.name}\n\n{paper.method}{link}: {what} {parameters:,} parameters.",
        usage(type(model).__name__, trained.name).rstrip(),
        f"## Training\n\n{_training(trained, context, options)}",
        f"## Data\n\n{_data(data, trained)}",
        f"## Results\n\n{_results(results)}",
    ]
    return "\n\n".join(parts) + "\n"


def card_metadata(
    class_name: str,
    name: str,
    license: str | None,
    base_model: str | None = None,
    results: Sequence[EvalResult] = (),
) -> ModelCardData:
    """The metadata at the head of a card, by the conventions of the Hub."""
    published = published_models().get(base_model or "")
    base = base_model if published is None else published.repository
    return ModelCardData(
        library_name="regen",
        pipeline_tag=GENERATOR if class_name == "LatentGenerator" else EMBEDDER,
        license=license,
        tags=[*PAPERS[class_name].tags, "regen"],
        base_model=base if base is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", base) else None,
        model_name=name if results else None,
        eval_results=[*results] or None,
    )


def task_of(model: ModelMixin) -> str:
    return GENERATOR if type(model).__name__ == "LatentGenerator" else EMBEDDER


def usage(class_name: str, name: str, as_published: bool = False) -> str:
    """The part of a card that says how to load the model `name`, `as_published` also with diffusers alone."""
    if class_name == "LatentGenerator":
        plain = "DiffusionPipeline"
        lines = [
            "from regen import RegenTextToVideoPipeline\n",
            f'pipeline = RegenTextToVideoPipeline.from_pretrained("{name}")',
        ]
        command = f'regen generate --model {name} --prompt "..." -o out.mp4'
    else:
        plain = "AutoModel"
        lines = [
            f"from regen import {class_name}\n",
            f'model = {class_name}.from_pretrained("{name}")',
            "latents = model.encode(video).latent_dist.mode()  # video: b 3 t h w, RGB in [-1, 1]",
            "reconstruction = model.decode(latents).sample",
        ]
        command = f"regen reconstruct in.mp4 -o out.mp4 --model {name}"
    text = "\n".join([f"    {command}\n", "```python", *lines, "```"])
    if as_published:
        text += (
            "\n\nWith diffusers alone, which runs the code in this repository:\n\n```python\n"
            f"from diffusers import {plain}\n\n"
            f'loaded = {plain}.from_pretrained("{name}", trust_remote_code=True)\n```'
        )
    return f"<!-- usage -->\n{text}\n<!-- end of usage -->\n"


def read_card(folder: Path) -> ModelCard | None:
    """The card of a model, if it has one. Raises ValueError when its metadata can't be read."""
    path = folder / "README.md"
    if not path.is_file():
        return None
    try:
        return ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    except Exception as error:  # from the YAML parser
        raise ValueError(f"{path} must begin with metadata in YAML ({first_line(error)}); mend it.") from None


def _describe(model: Any) -> str:
    """What the model does, in a sentence."""
    config, ratio = model.config, getattr(model, "spatial_compression_ratio", None)
    if type(model).__name__ == "LatentGenerator":
        condition = "texts" if config.text_width else "classes" if config.classes else "noise alone"
        embedder = model.latent_spec.embedder
        return f"a diffusion transformer that generates latents of {embedder} from {condition}."
    return (
        f"encodes chunks of {model.chunk_frames} frames into latents of {model.latent_channels} channels at "
        f"1/{ratio} of the resolution, and reconstructs them."
    )


def _training(run: Run, context: DistributedContext, options: CardOptions) -> str:
    """Command, updates, hardware and hours."""
    summary, seconds = run.summary(), max(run.series("seconds")[1], default=0.0)
    if context.device.type == "cuda":
        units, unit = context.size, "GPU"
        hardware = f"{units} × {torch.cuda.get_device_name(context.device)}"
    else:
        units, unit = context.size * torch.get_num_threads(), "core"
        hardware = f"{units} thread{'s' if units > 1 else ''} of {cpu_name()}"
    minutes, used = seconds / 60, f"{seconds / 3600 * units:.2g} {unit}-hours"
    time = f"{minutes:.3g} minutes" if minutes < 120 else f"{minutes / 60:.3g} hours"
    words = [Path(word).name if Path(word).is_absolute() else word for word in options.command]
    command = f"    {shlex.join(words)}\n\n" if words else ""
    return (
        f"{command}{summary.step} updates, {time} ({used}) on {hardware}. The weights are the moving average "
        f"(EMA). Configuration {summary.fingerprint}."
    )


def _data(data: Sequence[str | Path], run: Run) -> str:
    """The sources of the data, with their number of files, and the licences that lie beside them."""
    count = run.config.get("files") or run.config.get("latents", {}).get("samples")
    lines = [] if count is None else [f"{count} files or samples:\n"]
    lines += [f"- {Path(source).name}" for source in data]
    for source in data:
        lines += _licence(Path(source))
    return "\n".join(lines)


def _licence(folder: Path) -> list[str]:
    """The licence file in a folder, if there is one, quoted."""
    for path in sorted(folder.glob("LICEN[CS]E*")) if folder.is_dir() else []:
        with path.open(encoding="utf-8", errors="replace") as file:
            quoted = [f"> {line.rstrip()}" for line in islice(file, LICENCE_LINES)]
        return ["", f"{path.name} of {folder.name}:", "", *quoted]
    return []


def _results(results: Sequence[EvalResult]) -> str:
    if not results:
        return "Not evaluated during the training; `regen evaluate` measures it."
    rows = [f"| {result.metric_name} | {result.metric_value:.4g} |" for result in results]
    return "\n".join(["| held-out samples | |", "|---|---|", *rows])
