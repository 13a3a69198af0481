"""Fit the linear embedder to the videos of a folder, and save it with its card.

It starts at principal components of blocks that do not overlap and is trained from there by Adam on random
crops, whose margin does not count, with few components in time; at the end the decoder of all frames is
solved for by least squares. The same command resumes.
"""

import csv
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from jaxtyping import Float
from report import finish, hardware, one_sentence_errors, use_threads
from torch import Tensor
from torch.utils.data import Dataset

from regen.data.batches import BatchKey, TrainingBatches
from regen.data.clips import ClipDataset
from regen.data.tasks import Stage, TaskConfig
from regen.embedders.linear import AutoencoderLinear, bias_of
from regen.embedders.preview import fit_rgb_factors
from regen.media.pixels import uint8_to_signed
from regen.train.card import card_metadata, usage
from regen.train.checkpoint import list_checkpoints
from regen.train.dataloader import Batch, BatchLoader
from regen.train.distributed import DistributedContext
from regen.train.latent_statistics import measure_latent_statistics
from regen.train.loop import LoopConfig, train
from regen.train.optimizer import OptimizerConfig

CROP, MARGIN = 80, 8  # pixels
TEMPORAL_COMPONENTS = 6  # of the chunks in training; all frames take part in the end
SEED = 0
FITTED_CLIPS = 64  # that the preview is fitted to
TASKS = TaskConfig(image_share=0.1, warmup_fraction=1.0)
CHUNKS = TaskConfig(image_share=0.0, warmup_fraction=1.0)

CARD = """---
{metadata}
---
# {name}

The linear embedder of `regen`: windows of 16 x 16 pixels, 8 pixels apart. The content latent is a linear map
of the first frame, the motion latent one of all {length} frames, each of {channels} channels; each pixel
is the sum of four windows. It is the floor for trained models of its rate, and small ones start from it.

{usage}
## Fit

    python benchmarks/fit_linear.py --data DIR --ratio {ratio}{options} --out checkpoints/{name}

{updates} updates of {batch} crops of {side} x {side} pixels, from principal components on.
It took {minutes:.0f} minutes with {threads} on {machine}.

## Data

{clips}, {footage:.1f} minutes (source repository, licence, amount):

{sources}

## Results

{results}
"""
NO_RESULTS = "Not measured yet; `regen evaluate` measures it."


def main(
    data: tuple[Path, ...],
    out: Path,
    ratio: int = 4,
    channels: int = 8,
    updates: int = 2000,
    batch: int = 8,
    learning_rate: float = 2e-3,
    short_side: int = 160,
    threads: int = 1,
    run: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None,
    manifest: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None,
) -> None:
    """Fit a linear embedder and save it with a card that names the data.

    Example: python benchmarks/fit_linear.py --data clips/ --ratio 4 --out checkpoints/linear-4x

    Args:
        data: Folders or files of training videos.
        out: The folder for the model.
        ratio: Frames per chunk less one: 4, 8, 16, 32.
        channels: Numbers per latent frame and 8 x 8 square.
        updates: Updates of the training.
        batch: Crops in an update.
        learning_rate: Of Adam; it falls linearly to 0.
        short_side: Pixels of the short side, to which larger videos are reduced.
        threads: Threads of PyTorch; 0 is one per core.
        run: Folder for checkpoints and decoded frames; by default OUT-run.
        manifest: CSV with columns file, source_repo, licence; by default MANIFEST.csv of the first folder.
    """
    use_threads(threads)
    sources, start = read_manifest(manifest or data[0] / "MANIFEST.csv"), time.perf_counter()
    run = run or out.with_name(f"{out.name}-run")
    clips = ClipDataset(data, run / "frames", short_side)
    clips.fill_cache()
    options = (ratio, batch, updates)
    whole = batches(clips, *options, CHUNKS)
    chunks = Chunks(whole, 32)
    basis, mean = cosines(min(ratio + 1, TEMPORAL_COMPONENTS), ratio + 1), mean_colour(chunks)
    model = AutoencoderLinear(len(basis), channels)
    if not list_checkpoints(run / "checkpoints"):
        model.init_from_components(Chunks(Compressed(whole, basis, mean), 32))
    loop = LoopConfig(
        updates, SEED, ema_decay=0.99, save_every_minutes=2.0, mixed_precision="fp32", num_workers=0
    )
    # Decoupled decay and clipping have nothing to do here; Adam's own betas.
    optimizer = OptimizerConfig(
        learning_rate, betas=(0.9, 0.999), weight_decay=0.0, warmup_steps=20, decay_fraction=1.0
    )
    context = DistributedContext(torch.device("cpu"))
    config = {
        "class": "AutoencoderLinear",
        "model": {"temporal_compression_ratio": ratio, "latent_channels": channels},
        "loop": asdict(loop),
        "optimizer": asdict(optimizer),
    }
    training = Compressed(batches(clips, *options, TASKS), basis, mean)
    fitted = train(model, training, loop, optimizer, run, context, None, config).ema.model
    assert isinstance(fitted, AutoencoderLinear)
    model = expand(fitted, basis, mean)
    model.solve_decoder(replace(chunks, number=100))
    keys = [(step, 0, 1) for step in range(min(updates, 64))]
    with BatchLoader(chunks.batches, keys, 0, context.device) as loader:
        statistics = measure_latent_statistics(model, loader, 64 * batch, context, torch.float32)
    model.standardise(*statistics)
    model.set_rgb_factors(fit_rgb_factors(model, replace(chunks, number=-(-FITTED_CLIPS // batch))))
    model.to(torch.bfloat16).save_pretrained(out)
    minutes = (time.perf_counter() - start) / 60
    text = card(clips, sources, ratio, channels, updates, batch, minutes, out.name)
    (out / "README.md").write_text(text)
    result = {
        "benchmark": "fit_linear",
        "ratio": ratio,
        "channels": channels,
        "videos": len(clips),
        "updates": updates,
        "minutes": minutes,
        "unreadable": list(clips.skipped.values()),
    }
    row = [out.name, str(len(clips)), str(updates), f"{minutes:.1f}"]
    finish("Linear embedder", ["model", "videos", "updates", "minutes"], [row], result, torch.device("cpu"))


def batches(clips: ClipDataset, ratio: int, batch: int, updates: int, tasks: TaskConfig) -> TrainingBatches:
    """Random crops at the size in which the clips are stored."""
    stage = Stage(CROP, CROP, batch, image_batch_size=4 * batch, margin=MARGIN)
    return TrainingBatches(clips, ratio, tasks, (stage,), (1.0, 1.0), updates, SEED)


@dataclass(frozen=True)
class Chunks:
    """Chunks for principal components and least squares."""

    batches: Dataset[Batch]
    number: int

    def __iter__(self) -> Iterator[Float[Tensor, "b 3 t h w"]]:
        for step in range(min(self.number, len(self.batches))):  # type: ignore[arg-type]
            clip = self.batches[step, 0, 1]["clip"]
            yield uint8_to_signed(clip) if clip.dtype == torch.uint8 else clip


def cosines(number: int, frames: int) -> Float[Tensor, "r t"]:
    """The slowest `number` of the orthonormal cosines in time (DCT-II)."""
    t, r = torch.arange(frames, dtype=torch.float64) + 0.5, torch.arange(number, dtype=torch.float64)
    basis = torch.cos(torch.pi / frames * torch.outer(r, t)) * (2 / frames) ** 0.5
    basis[0] /= 2**0.5
    return basis.float()


def mean_colour(chunks: Iterable[Float[Tensor, "b 3 t h w"]]) -> Float[Tensor, "3 1 1 1"]:
    return torch.stack([chunk.mean((0, 2, 3, 4)) for chunk in chunks]).mean(0).view(3, 1, 1, 1)


class Compressed(Dataset[Batch]):
    """Batches whose chunks are their first frame, and what all frames have of a few cosines in time.

    A linear embedder of these learns several times faster than one of all frames at high ratios, whose motion
    latents vary slowly in time anyway, and is expanded to one of all frames afterwards (see `expand`).
    """

    def __init__(self, batches: TrainingBatches, basis: Float[Tensor, "r t"], mean: Tensor) -> None:
        self.batches, self.basis, self.mean = batches, basis, mean

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, key: BatchKey) -> Batch:
        batch = self.batches[key]
        clip = uint8_to_signed(batch["clip"]) - self.mean
        if clip.shape[2] > 1:
            slow = torch.einsum("rt,bcthw->bcrhw", self.basis, clip)
            clip = torch.cat([clip[:, :, :1], slow], dim=2)
        return batch | {"clip": clip, "target": clip, "times": torch.linspace(0, 1, clip.shape[2])}


@torch.no_grad()
def expand(
    compressed: AutoencoderLinear, basis: Float[Tensor, "r t"], mean: Float[Tensor, "3 1 1 1"]
) -> AutoencoderLinear:
    """The encoder of whole chunks that equals that of `Compressed` ones; the decoder is yet to be solved."""
    model = AutoencoderLinear(basis.shape[1] - 1, compressed.latent_channels).eval()
    weight = compressed.encoder.motion.weight
    motion = torch.einsum("rt,ncrpq->nctpq", basis, weight[:, :, 1:])
    motion[:, :, :1] += weight[:, :, :1]
    parts = (
        (model.encoder.content, compressed.encoder.content, compressed.encoder.content.weight),
        (model.encoder.motion, compressed.encoder.motion, motion),
    )
    for own, other, kernel in parts:
        own.weight.copy_(kernel)
        bias_of(own).copy_(bias_of(other) - (kernel * mean).sum((1, 2, 3, 4)))
    for decoder in (model.decoder.image, model.decoder.chunk):
        bias_of(decoder).copy_(mean.flatten())
    return model


def read_manifest(path: Path) -> dict[str, str]:
    """Where each file comes from and its licence, in words; empty without a manifest."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        return {row["file"]: f"{row['source_repo']}: {row['licence']}" for row in rows}
    except KeyError as error:
        raise ValueError(f"{path} has no column {error}; it needs file, source_repo and licence.") from None


def card(
    clips: ClipDataset,
    sources: dict[str, str],
    ratio: int,
    channels: int,
    updates: int,
    batch: int,
    minutes: float,
    name: str,
    results: str = NO_RESULTS,
) -> str:
    """The model card, which names every source of the footage, its licence and how much comes from it."""
    footage: dict[str, list[float]] = defaultdict(list)
    names = clips.collection.file_names(clips._numbers)
    seconds = (clips.columns.frames / clips.columns.frame_rate).tolist()
    for file, length in zip(names, seconds, strict=True):
        footage[sources.get(file.decode(), "source not stated")].append(length)
    lines = [
        f"- {source}: {plural(len(clip), 'clip')}, {sum(clip):.0f} s" for source, clip in footage.items()
    ]
    options = (f" --channels {channels}" if channels != 8 else "") + f" --updates {updates} --batch {batch}"
    metadata = card_metadata(AutoencoderLinear.__name__, name, "apache-2.0")
    return CARD.format(
        metadata=metadata.to_yaml(),
        usage=usage(AutoencoderLinear.__name__, name),
        name=name,
        results=results,
        ratio=ratio,
        length=ratio + 1,
        channels=channels,
        options=options,
        updates=updates,
        batch=batch,
        side=CROP + 2 * MARGIN,
        minutes=minutes,
        threads=plural(torch.get_num_threads(), "thread"),
        machine=hardware(torch.device("cpu")),
        clips=plural(len(clips), "clip"),
        footage=sum(seconds) / 60,
        sources="\n".join(sorted(lines)),
    )


def plural(number: int, noun: str) -> str:
    """Such as "1 clip" and "2 clips"."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
