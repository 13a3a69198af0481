"""A large shard set: how long it takes to start, whether memory stays flat, whether the order stays the same.

The videos are tiny, a few distinct ones under many names; what is measured depends on their number alone.
"""

import hashlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import torch
import tyro
from report import finish, one_sentence_errors
from shapes import moving_shapes

from regen.data.batches import BatchKey, TrainingBatches
from regen.data.clips import ClipDataset
from regen.data.shards import INDEX, SampleInfo, ShardWriter, serialize_index
from regen.data.tasks import Stage, TaskConfig
from regen.media.reader import VideoReader, VideoWriter
from regen.train.dataloader import BatchLoader

DISTINCT = 24
SIDE = 16  # pixels
PER_SHARD = 1000
CLIPS = 4  # in a batch
WARM_UP = 100  # batches after which memory is looked at for the first time
LOOKS = 8


@dataclass(frozen=True)
class Outcome:
    """What one number of workers gave: a digest of all batches, and memory in MB from look to look."""

    digest: str
    megabytes: list[float]
    batches_per_second: float


def write_samples(folder: Path, samples: int) -> None:
    """A shard set of `samples` tiny videos of 5 to 8 frames."""
    videos = []
    for seed in range(DISTINCT):
        path = folder / "video.mp4"
        frames = 5 + seed % 4
        with VideoWriter(path, SIDE, SIDE, Fraction(25)) as writer:
            for image in moving_shapes(frames, SIDE, SIDE, seed):
                writer.write(image)
        with VideoReader(path) as reader:
            seconds = float(reader.frame_times()[-1])
        videos.append((path.read_bytes(), frames, seconds))
        path.unlink()
    names: list[str] = []
    rows = []
    for start in range(0, samples, PER_SHARD):
        names.append(f"{len(names):05d}.tar")
        with ShardWriter(folder / names[-1]) as shard:
            for number in range(start, min(start + PER_SHARD, samples)):
                content, frames, seconds = videos[number % DISTINCT]
                shard.add(
                    SampleInfo(f"{number:08d}.mp4", frames, 25.0, seconds, SIDE, SIDE, False, True), content
                )
        rows.append(shard.rows)
    (folder / INDEX).write_bytes(serialize_index(names, rows))


def open_batches(folder: Path, steps: int) -> TrainingBatches:
    """The training data, with a part held out, as a run opens them."""
    clips, _ = ClipDataset([folder]).split(10, frames=5)
    stage = Stage(SIDE, SIDE, video_batch_size=CLIPS, image_batch_size=CLIPS)
    return TrainingBatches(
        clips, 4, TaskConfig(image_share=0.2, warmup_fraction=1.0), (stage,), (0.5, 1.0), steps, 0
    )


def read_all(batches: TrainingBatches, workers: int) -> Outcome:
    """Read every batch; memory is that of this process and of those that load, each page counted once."""
    keys: list[BatchKey] = [(step, 0, 1) for step in range(len(batches))]
    digest, megabytes = hashlib.blake2b(digest_size=16), []
    every = max(1, (len(keys) - WARM_UP) // LOOKS)
    start = time.perf_counter()
    with BatchLoader(batches, keys, workers, torch.device("cpu")) as loader:
        for step, batch in enumerate(loader):
            digest.update(batch["clip"].numpy().tobytes())
            if step >= WARM_UP and (step - WARM_UP) % every == 0:
                megabytes.append(memory_now())
    return Outcome(digest.hexdigest(), megabytes, len(keys) / (time.perf_counter() - start))


def memory_now() -> float:
    """MB that this process and those it has started take together; what they share counts once."""
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def start_up(folder: Path) -> dict[str, float]:
    """Seconds until all is known of the samples, and MB that this takes."""
    before, start = memory_now(), time.perf_counter()
    clips = ClipDataset([folder])
    opened = time.perf_counter()
    clips.split(10, frames=5)
    divided = time.perf_counter()
    clips.fingerprint()
    named = time.perf_counter()
    return {
        "open": opened - start,
        "split": divided - opened,
        "fingerprint": named - divided,
        "megabytes": memory_now() - before,
    }


def measure(
    samples: int, batches: int, workers: Sequence[int]
) -> tuple[dict[str, float], dict[int, Outcome]]:
    """Start-up, and for each number of workers what it gave. Raises ValueError when their data differ."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_samples(folder, samples)
        seconds = start_up(folder)
        seconds["disk_megabytes"] = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        outcomes = {number: read_all(open_batches(folder, batches), number) for number in workers}
    if len({outcome.digest for outcome in outcomes.values()}) > 1:
        raise ValueError(f"The data depend on the number of workers: {outcomes}.")
    return seconds, outcomes


def main(samples: int = 100_000, batches: int = 3000, workers: tuple[int, ...] = (0, 2, 8)) -> None:
    """Measure start-up, memory and order of the data of a large shard set, which is made for it.

    Example: python benchmarks/shard_scale.py --samples 100000 --workers 0 2 8

    Args:
        samples: Videos in the set.
        batches: Batches of 4 clips to read, with each number of workers.
        workers: Processes that read; 0 reads in this one.
    """
    if samples < 1000 or batches <= WARM_UP or not workers or min(workers) < 0:
        raise ValueError(f"Give 1000 samples or more, more than {WARM_UP} batches, and a number of workers.")
    seconds, outcomes = measure(samples, batches, workers)
    rows = [
        [
            str(number),
            f"{outcome.batches_per_second * CLIPS:.0f}",
            f"{outcome.megabytes[0]:.0f}",
            f"{outcome.megabytes[-1]:.0f}",
            outcome.digest[:8],
        ]
        for number, outcome in outcomes.items()
    ]
    opened = f"opened in {seconds['open']:.2f} s with {seconds['megabytes']:.0f} MB"
    finish(
        f"{samples} samples, {opened}; {batches} batches of {CLIPS} clips read",
        ["workers", "clips per second", f"MB after {WARM_UP} batches", "MB at the end", "digest of the data"],
        rows,
        {
            "benchmark": "shard_scale",
            "samples": samples,
            "batches": batches,
            "start": seconds,
            "workers": {number: asdict(outcome) for number, outcome in outcomes.items()},
        },
        torch.device("cpu"),
    )


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
