"""What a set of shards holds, as figures and as a picture."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from regen.curate.thumbnails import scaled
from regen.data.shards import ShardSet
from regen.media.files import VideoError
from regen.media.reader import VideoReader

CELL, GAP, COLUMNS = 120, 4, 8  # pixels, pixels, samples in a row
PICTURES = 48
PAPER = (24, 26, 29)


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


def draw_sheet(shards: ShardSet, path: Path) -> int:
    """A picture of at most 48 samples, evenly spaced; returns how many. What can't be read is left out."""
    count = min(PICTURES, len(shards))
    pictures = []
    for place in range(count):
        try:
            pictures.append(_middle(shards, round(place * (len(shards) - 1) / max(1, count - 1))))
        except VideoError:
            continue
    rows: list[list[Image.Image]] = [[]]
    width = COLUMNS * (CELL * 16 // 9 + GAP)
    for picture in pictures:
        if rows[-1] and sum(one.width + GAP for one in rows[-1]) + picture.width > width:
            rows.append([])
        rows[-1].append(picture)
    sheet = Image.new("RGB", (width + GAP, len(rows) * (CELL + GAP) + GAP), PAPER)
    for row, line in enumerate(rows):
        left = GAP
        for picture in line:
            sheet.paste(picture, (left, GAP + row * (CELL + GAP)))
            left += picture.width + GAP
    sheet.save(path)
    return len(pictures)


def _middle(shards: ShardSet, number: int) -> Image.Image:
    facts = shards.info(number)
    with VideoReader(shards.read(number), threads=1, short_side=2 * CELL) as reader:
        return scaled(reader.read_at([facts.seconds / 2])[0].numpy(), CELL)
