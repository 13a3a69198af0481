"""How fast training data are loaded, from shards, from files and by plain PyAV on the same clips."""

import cProfile
import inspect
import pstats
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from statistics import median
from typing import Annotated

import av
import numpy as np
import torch
import tyro
from report import find_clips, finish, one_sentence_errors, show_table
from torch import Tensor
from torch.utils.data import Dataset

from regen.data.batches import BatchKey, TrainingBatches
from regen.data.clips import ClipDataset, ClipSpec, crop_window, pick_frame_times, resize
from regen.data.shards import INDEX, ShardSet, ShardWriter, read_sample_info, serialize_index
from regen.data.tasks import Stage, TaskConfig
from regen.media import reader as video
from regen.media.files import VideoError, is_image
from regen.media.pixels import SCALING
from regen.media.reader import VideoReader
from regen.media.seeking import Seeker
from regen.train.dataloader import BatchLoader

CPU = torch.device("cpu")
BY_HAND = {"plain PyAV": False, "PyAV, exact colours": True}
COPIES = 32  # of the example, where no other videos are given
PER_SHARD = 32
TASKS = TaskConfig(image_share=0.0, warmup_fraction=1.0)


@dataclass(frozen=True)
class Excerpt:
    """A clip as a script would ask for it: a file, where to begin, which part of the picture, and a size."""

    path: str
    start: float
    frames: int
    rows: slice
    columns: slice
    mirrored: bool
    size: tuple[int, int]


def read_with_pyav(excerpt: Excerpt, exact: bool = False) -> Tensor:
    """The clip "3 t h w" by PyAV and PyTorch alone: open, seek, decode, convert, crop, resize.

    With FFmpeg's own, fast conversion of colours, or with `exact` ones, as the loader has them.
    """
    flags = SCALING if exact else None
    images = []
    with av.open(excerpt.path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        container.seek(int(excerpt.start / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if frame.time < excerpt.start - 1e-3:
                continue
            image = frame.to_ndarray(format="rgb24", interpolation=flags, threads=1)
            images.append(image[excerpt.rows, excerpt.columns])
            if len(images) == excerpt.frames:
                break
    clip = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    clip = torch.nn.functional.interpolate(clip, excerpt.size, mode="bicubic", antialias=True)
    return (clip.flip(-1) if excerpt.mirrored else clip).transpose(0, 1).contiguous()


def count_with_pyav(excerpt: Excerpt, exact: bool) -> int:
    """Read a clip and leave it where it is."""
    torch.set_num_threads(1)
    return read_with_pyav(excerpt, exact).shape[1]


def excerpts_of(batches: TrainingBatches, keys: Sequence[BatchKey]) -> list[Excerpt]:
    """The clips that `batches` will read from files, in their order."""
    clips, stage = batches.clips, batches.stages[0]
    assert isinstance(clips, ClipDataset)
    cut = ClipSpec(batches.ratio + 1, (stage.height, stage.width), batches.scale)
    found = []
    for row in range(len(keys) * stage.video_batch_size):
        draw = clips.draw(row, cut, batches.seed)
        catalog, place = clips.collection.find(draw.number)
        times = catalog.times(place, catalog.source(place))
        shown = pick_frame_times(times, float(catalog.columns.frame_rate[place]), cut, draw)
        height, width = int(catalog.columns.height[place]), int(catalog.columns.width[place])
        crop = *crop_window(height, width, cut, draw), draw.mirror < 0.5
        found.append(Excerpt(catalog.name(place), float(shown[0]), cut.frames, *crop, cut.size))
    return found


def write_shards(files: Sequence[Path], folder: Path) -> None:
    """All files, in their order, in shards below `folder`."""
    folder.mkdir()
    names: list[str] = []
    rows = []
    for start in range(0, len(files), PER_SHARD):
        names.append(f"{len(names):05d}.tar")
        with ShardWriter(folder / names[-1]) as writer:
            for number, path in enumerate(files[start : start + PER_SHARD], start):
                writer.add(read_sample_info(path, f"{number:06d}{path.suffix}"), path.read_bytes())
        rows.append(writer.rows)
    (folder / INDEX).write_bytes(serialize_index(names, rows))


def usable(path: Path) -> bool:
    """Whether `path` is a video that can be read."""
    try:
        with VideoReader(path):
            return not is_image(path)
    except VideoError:
        return False


class Stored(Dataset[dict[str, Tensor]]):
    """One batch that is there already, to time its passage to the process that trains."""

    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.batch = batch

    def __getitem__(self, key: BatchKey) -> dict[str, Tensor]:
        return self.batch


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock, and of all processors together."""

    clock: float
    processors: float


@contextmanager
def timed(costs: list[Cost]) -> Iterator[None]:
    """Append what the block cost, with all processes that begin and end in it."""
    start, before = time.perf_counter(), processor_seconds()
    yield
    costs.append(Cost(time.perf_counter() - start, processor_seconds() - before))


def processor_seconds() -> float:
    """Of this process and of those that it has started and that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def load_all(batches: Dataset[dict[str, Tensor]], keys: Sequence[BatchKey], workers: int) -> None:
    """All batches, one after the other, as a training takes them."""
    with BatchLoader(batches, keys, workers, CPU) as loader:
        for _ in loader:
            pass


def read_all_with_pyav(excerpts: Sequence[Excerpt], processes: int, exact: bool) -> None:
    """As many processes read the same clips; these stay where they are."""
    with Pool(processes) as pool:
        assert all(
            count > 0 for count in pool.imap_unordered(partial(count_with_pyav, exact=exact), excerpts)
        )
        pool.close()
        pool.join()


def milliseconds_by_part(batches: TrainingBatches, keys: Sequence[BatchKey]) -> dict[str, float]:
    """Where the time of one process goes for one clip from shards, and that of its passage to the trainer."""
    profiler = cProfile.Profile()
    for key in keys:
        profiler.runcall(batches.__getitem__, key)
    times = {place: row[3] for place, row in pstats.Stats(profiler).stats.items()}  # type: ignore[attr-defined]

    def seconds(function: Callable[..., object]) -> float:
        code = inspect.unwrap(function).__code__
        return times.get((code.co_filename, code.co_firstlineno, function.__name__), 0.0)

    parts = {
        "read": seconds(ShardSet.read),
        "open": seconds(Seeker.__init__) + seconds(Seeker.locate_first),
        "seek and decode": seconds(Seeker.frames_starting_at),
        "convert to RGB and crop": seconds(video._stacked),
        "resize": seconds(resize),
    }
    parts["draw, stack, all else"] = seconds(TrainingBatches.__getitem__) - sum(parts.values())
    stored = Stored(batches[keys[0]])
    costs: list[Cost] = []
    for some in (keys[:1], [*keys, keys[0]]):
        with timed(costs):
            load_all(stored, some, 1)
    parts["to the trainer, in floats"] = costs[1].processors - costs[0].processors
    return {
        name: 1e3 * value / len(keys) / batches.stages[0].video_batch_size for name, value in parts.items()
    }


def main(
    data: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="PATH...")] = (),
    ratio: int = 4,
    size: tuple[int, int] = (192, 320),
    batch: int = 6,
    batches: int = 32,
    workers: int = 2,
    repeats: int = 5,
) -> None:
    """Measure the throughput of the loader; nothing else should run on the machine.

    The same clips are read from shards, from files, and by a plain function of PyAV and PyTorch in as many
    processes, in turns. That function leaves its clips where they are; the loader brings them, in their
    order, to the process that trains. It converts colours exactly, which plain PyAV does not.

    Example: python benchmarks/loader.py --data VIDEOS/ --workers 2

    Args:
        data: Videos, or folders of them; by default the example, many times.
        ratio: Frames of a clip after its first one.
        size: Height and width of the crops.
        batch: Clips in a batch.
        batches: How many to read each time.
        workers: Processes that read.
        repeats: Turns.
    """
    if min(ratio, batch, batches, workers, repeats) < 1:
        raise ValueError("Ratio, batch, batches, workers and repeats must be 1 or more.")
    torch.set_num_threads(1)  # as in the processes that load
    with tempfile.TemporaryDirectory() as folder:
        files = [path for path in find_clips(data, None) if usable(path)] if data else copies(Path(folder))
        write_shards(files, Path(folder) / "shards")
        stage = Stage(*size, video_batch_size=batch, image_batch_size=1)
        sources = {
            name: TrainingBatches(ClipDataset(paths), ratio, TASKS, (stage,), (0.5, 1.0), batches, 0)
            for name, paths in (("shards", [Path(folder) / "shards"]), ("files", files))
        }
        keys = [(step, 0, 1) for step in range(batches)]
        excerpts = excerpts_of(sources["files"], keys)
        costs: dict[str, list[Cost]] = {name: [] for name in (*sources, *BY_HAND)}
        for _ in range(repeats):
            for name, source in sources.items():
                with timed(costs[name]):
                    load_all(source, keys, workers)
            for name, exact in BY_HAND.items():
                with timed(costs[name]):
                    read_all_with_pyav(excerpts, workers, exact)
        parts = milliseconds_by_part(sources["shards"], keys[:8])
    report(costs, parts, batches * batch, stage, {"files": len(files), "ratio": ratio, "workers": workers})


def copies(folder: Path) -> list[Path]:
    """The example video under many names."""
    example = Path(__file__).parents[1] / "examples" / "butterfly.mp4"
    return [Path(shutil.copy(example, folder / f"{number:03d}.mp4")) for number in range(COPIES)]


def report(
    costs: dict[str, list[Cost]], parts: dict[str, float], clips: int, stage: Stage, facts: dict[str, int]
) -> None:
    """Two tables for people and the last line for programs."""
    frames, hand = facts["ratio"] + 1, costs["plain PyAV"]
    speeds = {name: median(clips / cost.clock for cost in turns) for name, turns in costs.items()}
    shares = {
        name: median(base.clock / cost.clock for base, cost in zip(hand, turns, strict=True))
        for name, turns in costs.items()
    }
    busy = {name: median(1e3 * cost.processors / clips for cost in turns) for name, turns in costs.items()}
    total = sum(parts.values())
    show_table(
        "One clip from shards, in one process",
        ["part", "ms", "share"],
        [[name, f"{value:.2f}", f"{value / total:.0%}"] for name, value in parts.items()],
    )
    finish(
        f"{clips} clips of {frames} frames of {stage.height}x{stage.width} by {facts['workers']} processes",
        ["source", "clips per second", "frames per second", "share of plain PyAV", "processor ms per clip"],
        [
            [name, f"{speed:.1f}", f"{speed * frames:.0f}", f"{shares[name]:.0%}", f"{busy[name]:.1f}"]
            for name, speed in speeds.items()
        ],
        {
            "benchmark": "loader",
            "size": f"{stage.height}x{stage.width}",
            "clips": clips,
            **facts,
            "clips_per_second": speeds,
            "share_of_plain_pyav": shares,
            "processor_milliseconds": busy,
            "parts_milliseconds": parts,
        },
        CPU,
    )


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
