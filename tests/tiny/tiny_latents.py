"""A small corpus, as a folder and as shards, and exports of it with a tiny model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tiny_media import long_onedva, make_image, make_video, tiny_regen
from tiny_shards import info_of

from regen.corpus.export import ExportRequest, ExportSettings, export_latents
from regen.curate.sources import list_sources, read_sidecars
from regen.data.shards import INDEX, ShardWriter, serialize_index

CPU = torch.device("cpu")


def make_corpus(folder: Path) -> Path:
    """Videos of 11, 6, 3 and 1 frames and two images, of several sizes, one below another folder."""
    (folder / "more").mkdir(parents=True)
    make_video(folder / "a.mp4", 11, 32, 40)
    make_video(folder / "b.mkv", 6, 24, 48)
    make_video(folder / "c.mp4", 3, 21, 35)
    make_video(folder / "d.mp4", 1, 32, 40)
    make_image(folder / "e.png", 20, 28)
    make_image(folder / "more" / "a.jpg", 32, 40)
    (folder / "a.txt").write_text("a gradient, größer\n")
    (folder / "a.cls").write_text("7")
    return folder


def make_model(folder: Path, seed: int = 0) -> str:
    torch.manual_seed(seed)
    tiny_regen().save_pretrained(folder)
    return str(folder)


def make_hybrid_model(folder: Path) -> str:
    """A One-DVA with random weights, saved: patches of 4 frames and 16 x 16 pixels, regions of 2 x 2."""
    torch.manual_seed(1)
    model = long_onedva(std=0.1)
    model.set_latent_statistics(torch.randn(2, 4), torch.rand(2, 4) + 0.5)
    model.save_pretrained(folder)
    return str(folder)


def make_lively_corpus(folder: Path) -> Path:
    """Videos of 37 and 20 frames, whose last chunks move less than the others, and an image."""
    folder.mkdir()
    make_video(folder / "a.mp4", 37, 32, 48)
    make_video(folder / "b.mp4", 20, 48, 64)
    make_image(folder / "c.png", 32, 48)
    return folder


def make_shards(corpus: Path, folder: Path, each: int) -> Path:
    """The files of a corpus in shards of `each`, under the keys that an export gives them."""
    folder.mkdir()
    sources = list_sources([corpus])
    rows = []
    for start in range(0, len(sources), each):
        with ShardWriter(folder / f"{start // each:05}.tar") as writer:
            for source in sources[start : start + each]:
                facts = info_of(source.path, source.key + source.suffix, *read_sidecars(source.path))
                writer.add(facts, source.path.read_bytes())
        rows.append(writer.rows)
    names = [f"{number:05}.tar" for number in range(len(rows))]
    (folder / INDEX).write_bytes(serialize_index(names, rows))
    return folder


def wanted(model: str, data: Sequence[Path] | Path, out: Path, **changes: Any) -> ExportRequest:
    """An export in fp32, unless the settings are changed."""
    places = (data,) if isinstance(data, Path) else data
    settings = ExportSettings(**{"dtype": "fp32", "latent_dtype": "fp32"} | changes)
    return ExportRequest(model, tuple(map(str, places)), out, settings)


def export(model: str, data: Sequence[Path] | Path, out: Path, processes: int = 1, **changes: Any) -> Path:
    export_latents(wanted(model, data, out, **changes), CPU, processes)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def times(folder: Path) -> dict[str, int]:
    """When each file of an export was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()}


def work_left(folder: Path) -> list[str]:
    """What is left of work in an export, beside the one lock that stays."""
    return sorted(path.name for path in (folder / ".work").iterdir() if path.name != "all.lock")


def long_corpus(folder: Path, videos: int, frames: int = 150) -> Path:
    """Videos that keep a process busy, all the same but for their names."""
    folder.mkdir()
    first = make_video(folder / "0.mp4", frames, 48, 64)
    for number in range(1, videos):
        (folder / f"{number}.mp4").hardlink_to(first)
    return folder
