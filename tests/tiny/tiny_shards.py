"""A shard set of a few files, for the tests of all that reads shards."""

from collections.abc import Sequence
from pathlib import Path

from regen.data import shards
from regen.data.shards import INDEX, SampleInfo, ShardWriter, serialize_index
from regen.media.reader import VideoReader


def info_of(path: Path, name: str | None = None, caption: str = "", label: int = -1) -> SampleInfo:
    """The index entry of a video or an image."""
    with VideoReader(path) as reader:
        return shards.sample_info(reader, name or path.name, caption, label)


def make_shards(folder: Path, files: Sequence[Path], per_shard: int = 2) -> Path:
    """The files in shards of `per_shard`, in their order, with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    names, rows = [], []
    for start in range(0, len(files), per_shard):
        names.append(f"{len(names):05d}.tar")
        with ShardWriter(folder / names[-1]) as writer:
            for path in files[start : start + per_shard]:
                writer.add(info_of(path, caption=f"about {path.stem}", label=start), path.read_bytes())
        rows.append(writer.rows)
    (folder / INDEX).write_bytes(serialize_index(names, rows))
    return folder
