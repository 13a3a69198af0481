"""The index of shards that were made elsewhere, in WebDataset's format."""

import tarfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import fsspec

from regen.curate.analysis import MIN_BYTES_PER_SECOND, sample_info
from regen.curate.build_folder import write_bytes
from regen.curate.sources import parse_caption, parse_class, parse_json
from regen.curate.workers import ExtendDeadline, Failure, JobError, OnPhase, PoolOptions, run_jobs
from regen.data.shards import INDEX, serialize_index
from regen.media.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Blob
from regen.media.reader import VideoReader

TEXTS = (".txt", ".cls", ".json")


@dataclass(frozen=True)
class Member:
    """A video or image in a shard: where its bytes lie, and the texts beside it by their suffixes."""

    shard: str
    name: str
    offset: int
    size: int
    texts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ShardListing:
    """The samples of a shard; `damage` says what is wrong with it as a tar file."""

    members: tuple[Member, ...]
    damage: str | None


@dataclass(frozen=True)
class IndexResult:
    """What came of it: samples in the index, and why others, or parts of shards, are left out."""

    shards: int
    samples: int
    left_out: tuple[tuple[str, str], ...]  # name, reason


def make_index(
    address: str, work: PoolOptions, on_progress: OnPhase = lambda phase, done, total: None
) -> IndexResult:
    """Write the index of the tar files in a folder, or at an address that fsspec knows.

    A sample is a video or an image and what has the same name but for its suffix: a caption (.txt), a class
    (.cls), or both in JSON. Raises ValueError when there is no shard or not a single sample.
    """
    work.validate()
    files, root = fsspec.core.url_to_fs(address)
    names = sorted(PurePosixPath(path).name for path in files.glob(f"{root}/*.tar"))
    if not names:
        raise ValueError(f"There is no .tar file in {address}; give a folder of shards.")
    left_out: list[tuple[str, str]] = []
    members: list[Member] = []
    addresses = [f"{address.rstrip('/')}/{name}" for name in names]
    with closing(run_jobs(list_members, addresses, work.workers, work.time_limit)) as results:
        for done, (shard, listing) in enumerate(results, start=1):
            on_progress("list", done, len(names))
            if isinstance(listing, Failure):
                left_out.append((shard, listing.text))
                continue
            members += listing.members
            if listing.damage is not None:
                left_out.append((shard, listing.damage))
    rows: dict[str, list[dict[str, Any]]] = {shard: [] for shard in addresses}
    with closing(run_jobs(read_member, members, work.workers, work.time_limit)) as results:
        for done, (member, row) in enumerate(results, start=1):
            on_progress("look", done, len(members))
            if isinstance(row, Failure):
                left_out.append((f"{member.shard}/{member.name}", row.text))
            else:
                rows[member.shard].append(row)
    if not any(rows.values()):
        first = f", as: {min(left_out)[1]}" if left_out else ""
        raise ValueError(f"The shards in {address} hold no video and no image that can be read{first}.")
    parts = [sorted(rows[shard], key=lambda row: row["offset"]) for shard in addresses]
    content = serialize_index(names, parts)
    if "://" in address:
        files.pipe_file(f"{root}/{INDEX}", content)
    else:
        write_bytes(Path(address) / INDEX, content)
    return IndexResult(len(names), sum(map(len, parts)), tuple(sorted(left_out)))


def list_members(shard: str, extend: ExtendDeadline) -> ShardListing:
    """The samples of one shard, from the headers of its tar file."""
    found: dict[str, list[tarfile.TarInfo]] = {}
    damage = None
    with fsspec.open(shard, "rb") as file:
        size = file.seek(0, 2)
        extend(size / MIN_BYTES_PER_SECOND)
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for info in tar:
                    if info.isfile():
                        found.setdefault(_key(info.name), []).append(info)
        except tarfile.TarError as error:
            damage = f"it is no tar file, or a damaged one ({error})"
        except OSError as error:
            damage = f"it can't be read to its end ({error})"
        members = [_member(shard, infos, file) for infos in found.values()]
    whole = [member for member in members if member and member.offset + member.size <= size]
    if damage is None and len(whole) < sum(member is not None for member in members):
        damage = "it is cut off"
    return ShardListing(tuple(whole), damage)


def _key(name: str) -> str:
    """WebDataset's: all up to the first dot of the file's name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _member(shard: str, infos: Sequence[tarfile.TarInfo], file: BinaryIO) -> Member | None:
    """The video among members with the same key, or else the image; None when there is neither."""
    media = [info for info in infos if _suffix(info) in VIDEO_SUFFIXES]
    media += [info for info in infos if _suffix(info) in IMAGE_SUFFIXES]
    if not media:
        return None
    texts = []
    for info in infos:
        if _suffix(info) in TEXTS:
            file.seek(info.offset_data)
            texts.append((_suffix(info), file.read(info.size).decode("utf-8", errors="replace")))
    name = media[0].name.encode(errors="replace").decode()
    return Member(shard, name, media[0].offset_data, media[0].size, tuple(texts))


def _suffix(info: tarfile.TarInfo) -> str:
    return PurePosixPath(info.name).suffix.lower()


def read_member(member: Member, extend: ExtendDeadline) -> dict[str, Any]:
    """The row of one sample in the index. Raises VideoError when it can't be read."""
    with fsspec.open(member.shard, "rb") as file:
        file.seek(member.offset)
        content = file.read(member.size)
    if len(content) != member.size:
        raise JobError("damaged", "it is cut off")
    texts = dict(member.texts)
    beside = parse_json(texts[".json"], member.name) if ".json" in texts else {}
    caption = parse_caption(texts.get(".txt"), beside, member.name)
    label = parse_class(texts.get(".cls"), beside, member.name)
    with VideoReader(Blob(member.name, content), threads=1) as reader:
        facts = sample_info(reader, member.name, caption, label)
    return asdict(facts) | {"offset": member.offset, "size": member.size}
