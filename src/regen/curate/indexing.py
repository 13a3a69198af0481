"""Index of shards from elsewhere (WebDataset), and an overview of shards."""

import tarfile
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import fsspec
import numpy as np
from PIL import Image

from regen.console import ProgressBar, first_line
from regen.curate.analysis import MIN_BYTES_PER_SECOND
from regen.curate.options import PoolOptions
from regen.curate.report import evenly_spaced, scale_to_height
from regen.curate.sources import decode_text, parse_caption, parse_class, parse_sidecar
from regen.data.shards import INDEX, ShardSet, sample_info, serialize_index
from regen.io import write_bytes
from regen.media.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Blob, VideoError
from regen.media.reader import VideoReader
from regen.workers import ExtendDeadline, Failure, JobError, run_jobs

TEXTS = (".txt", ".cls", ".json")
SHEET_SAMPLES = 48
SHEET_HEIGHT, SHEET_GAP, SHEET_COLUMNS = 120, 4, 8  # pixels, pixels, samples in a row
SHEET_COLOUR = (24, 26, 29)


@dataclass(frozen=True)
class Member:
    """A video or image in a shard: where its bytes lie, and its text members by their suffixes."""

    shard: str
    name: str
    offset: int
    size: int
    texts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class IndexResult:
    """Numbers of shards and samples in the index, and (name, reason) of skipped samples or shards."""

    shards: int
    samples: int
    skipped: tuple[tuple[str, str], ...]


def make_index(
    address: str,
    pool: PoolOptions,
    on_progress: ProgressBar = lambda done, total, description=None: None,
    index_dir: Path | None = None,
) -> IndexResult:
    """Write the index of the tar files in a folder, or at an address that fsspec knows.

    It lies beside them, or in `index_dir` where they can't be written to.

    A sample is a video or an image and what has the same name but for its suffix: a caption (.txt), a class
    (.cls), or both in JSON. Raises ValueError when there is no shard or not a single sample.
    """
    pool.validate()
    files, root = fsspec.core.url_to_fs(address)
    names = sorted(PurePosixPath(path).name for path in files.glob(f"{root}/*.tar"))
    if not names:
        raise ValueError(f"There is no .tar file in {address}; give a folder of shards.")
    skipped: list[tuple[str, str]] = []
    members: list[Member] = []
    addresses = [f"{address.rstrip('/')}/{name}" for name in names]
    with closing(run_jobs(list_members, addresses, pool.workers, pool.time_limit)) as results:
        for done, (shard, listing) in enumerate(results, start=1):
            on_progress(done, len(names), "listing shards")
            found, damage = ([], listing.text) if isinstance(listing, Failure) else listing
            members += found
            if damage is not None:
                skipped.append((shard, damage))
    rows: dict[str, list[dict[str, Any]]] = {shard: [] for shard in addresses}
    with closing(run_jobs(read_member, members, pool.workers, pool.time_limit)) as results:
        for done, (member, row) in enumerate(results, start=1):
            on_progress(done, len(members), "analysing files")
            if isinstance(row, Failure):
                skipped.append((f"{member.shard}/{member.name}", row.text))
            else:
                rows[member.shard].append(row)
    if not any(rows.values()):
        first = f", as: {min(skipped)[1]}" if skipped else ""
        raise ValueError(f"The shards in {address} hold no video and no image that can be read{first}.")
    parts = [sorted(rows[shard], key=lambda row: row["offset"]) for shard in addresses]
    content = serialize_index(names, parts)
    if index_dir is not None:
        index_dir.mkdir(parents=True, exist_ok=True)
        place = address if "://" in address else str(Path(address).resolve())
        write_bytes(index_dir / INDEX, serialize_index(names, parts, place))
    else:
        try:
            if "://" in address:
                files.pipe_file(f"{root}/{INDEX}", content)
            else:
                write_bytes(Path(address) / INDEX, content)
        except OSError as error:
            raise ValueError(
                f"The index can't be written beside the shards in {address} ({first_line(error)}); choose a "
                "folder for it by --index-dir, which is then given as --data."
            ) from None
    return IndexResult(len(names), sum(map(len, parts)), tuple(sorted(skipped)))


def list_members(shard: str, extend: ExtendDeadline) -> tuple[list[Member], str | None]:
    """The samples of one shard, from the headers of its tar file, and what is wrong with it."""
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
            damage = f"it is not a tar file, or a damaged one ({error})"
        except OSError as error:
            damage = f"it can't be read to its end ({error})"
        members = [member for infos in found.values() if (member := _member(shard, infos, file))]
    whole = [member for member in members if member.offset + member.size <= size]
    if damage is None and len(whole) < len(members):
        damage = "it is cut off"
    return whole, damage


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
            texts.append((_suffix(info), decode_text(file.read(info.size), info.name)))
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
    sidecar = parse_sidecar(texts[".json"], member.name) if ".json" in texts else {}
    caption = parse_caption(texts.get(".txt"), sidecar, member.name)
    label = parse_class(texts.get(".cls"), sidecar, member.name)
    with VideoReader(Blob(member.name, content), threads=1) as reader:
        info = sample_info(reader, member.name, caption, label)
    return asdict(info) | {"offset": member.offset, "size": member.size}


def overview(shards: ShardSet) -> dict[str, Any]:
    """Counts and sums; `sizes` has how many samples there are of each width and height, the most first."""
    column = shards.column
    sizes = Counter(zip(column("width").tolist(), column("height").tolist(), strict=True))
    images = column("is_image")
    seconds = column("seconds")[~images]
    labels = column("label")
    return {
        "shards": len(shards.shards),
        "samples": len(shards),
        "videos": int((~images).sum()),
        "images": int(images.sum()),
        "hours": round(float(seconds.sum()) / 3600, 4),
        "seconds": np.quantile(seconds, (0, 0.5, 1)).round(2).tolist() if len(seconds) else [],
        "frames": int(column("frames").sum()),
        "bytes": int(column("size").sum()),
        "captions": int((np.diff(column("caption_end"), prepend=0) > 0).sum()),
        "labelled": int((labels >= 0).sum()),
        "classes": len(np.unique(labels[labels >= 0])),
        "sizes": [[*size, count] for size, count in sizes.most_common()],
    }


def draw_sheet(shards: ShardSet, path: Path) -> None:
    """Draw a picture of at most 48 samples, evenly spaced. What can't be read is left out."""
    pictures = []
    for number in evenly_spaced(range(len(shards)), SHEET_SAMPLES):
        with (
            suppress(VideoError),
            VideoReader(shards.read(number), threads=1, short_side=2 * SHEET_HEIGHT) as reader,
        ):
            frame = reader.read_at([shards.info(number).seconds / 2])[0]
            pictures.append(scale_to_height(frame.numpy(), SHEET_HEIGHT))
    rows: list[list[Image.Image]] = [[]]
    width = SHEET_COLUMNS * (SHEET_HEIGHT * 16 // 9 + SHEET_GAP)
    for picture in pictures:
        if rows[-1] and sum(one.width + SHEET_GAP for one in rows[-1]) + picture.width > width:
            rows.append([])
        rows[-1].append(picture)
    step = SHEET_HEIGHT + SHEET_GAP
    sheet = Image.new("RGB", (width + SHEET_GAP, len(rows) * step + SHEET_GAP), SHEET_COLOUR)
    for row, line in enumerate(rows):
        left = SHEET_GAP
        for picture in line:
            sheet.paste(picture, (left, SHEET_GAP + row * step))
            left += picture.width + SHEET_GAP
    sheet.save(path)
