"""The videos of an evaluation, kept in its folder, so that an interrupted one goes on where it was.

    options.json                 what the videos depend on; the same for all that is in the folder
    KIND-000123.safetensors      some videos of a kind: names are their numbers, "t h w 3" in 8 bits

Which videos lie together in a file says nothing: a later call may make them in other batches.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

OPTIONS = "options.json"


class VideoCache:
    """Videos of one kind by their numbers. Raises ValueError when a file in the folder is damaged."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self._places: dict[int, Path] = {}
        for path in sorted(folder.glob(f"{kind}-*.safetensors")):
            try:
                with safe_open(path, framework="pt") as file:
                    self._places |= {int(name): path for name in file.keys()}  # noqa: SIM118
            except (SafetensorError, ValueError):
                raise ValueError(
                    f"The file {path} is damaged; delete it, and its videos are made again."
                ) from None

    def missing(self, count: int) -> list[int]:
        """Which of the first `count` videos are not there."""
        return [number for number in range(count) if number not in self._places]

    def add(self, videos: dict[int, UInt8[Tensor, "t h w 3"]]) -> None:
        """Keep some videos, all of them or, when this is interrupted, none."""
        path = self.folder / f"{self.kind}-{min(videos):06d}.safetensors"
        named = {f"{number:06d}": video.contiguous() for number, video in videos.items()}
        _write_whole(path, lambda hidden: save_file(named, hidden))
        self._places |= dict.fromkeys(videos, path)

    def __getitem__(self, number: int) -> UInt8[Tensor, "t h w 3"]:
        with safe_open(self._places[number], framework="pt") as file:
            return file.get_tensor(f"{number:06d}")


def check_options(folder: Path, options: dict[str, Any]) -> None:
    """Write down what the videos in `folder` depend on; ValueError when those that are there had others."""
    folder.mkdir(parents=True, exist_ok=True)
    path, wanted = folder / OPTIONS, json.loads(json.dumps(options))
    if not path.exists():
        write_json(path, wanted)
        return
    try:
        there = dict(json.loads(path.read_text()))
    except ValueError:
        raise ValueError(f"The file {path} is damaged; give another --out.") from None
    for name in dict.fromkeys([*wanted, *there]):
        if there.get(name) != wanted.get(name):
            raise ValueError(
                f"The videos in {folder} were made with {name} {there.get(name)}, not {wanted.get(name)}; "
                "give the same options again to go on with them, or another --out."
            )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file that is whole at any time."""
    text = json.dumps(content, indent=1) + "\n"
    _write_whole(path, lambda hidden: hidden.write_text(text))


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a hidden file that then takes the place of `path`; nothing is left of a failure."""
    hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(hidden)
        with hidden.open("rb+") as file:
            os.fsync(file.fileno())
        hidden.replace(path)
    finally:
        hidden.unlink(missing_ok=True)
