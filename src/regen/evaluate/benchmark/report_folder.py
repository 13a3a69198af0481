"""The folder of an evaluation: one file per result, written whole, and locks for processes that share it.

    clips.json  settings.json           what is frozen by the first run
    results/MODEL/SIZE-STEPS/CLIP.json  one result; `videos` and `features` have the same names below them
    clips.jsonl  summary.json           all results, and their means

A result's JSON is written last, so where it is the rest of the result is, too. What is being made stands in
.work until then (see `regen.locks`).
"""

import json
import os
from pathlib import Path
from typing import Any

from regen.locks import Claims

ORIGINAL = "original"  # stands for a model in the names of what is kept of the originals


def folder_name(model: str) -> str:
    """The name of a model's folders in a report."""
    return model.replace("/", "--")


def result_key(model: str | None, size: str, steps: int, clip: str) -> str:
    """The name of a result's files: of a model at a size, for a clip by its label; None is the original."""
    if model is None:
        return f"{ORIGINAL}/{size}/{clip}"
    return f"{folder_name(model)}/{size}-{steps}/{clip}"


class ReportFolder:
    """Reads and writes a report; `path` is made if it is not there."""

    def __init__(self, path: Path) -> None:
        self.path, self.claims = path, Claims(path / ".work")
        self.clips, self.settings = path / "clips.json", path / "settings.json"

    def open(self) -> None:
        """Raises ValueError when nothing can be written there."""
        try:
            self.claims.open()
        except OSError as error:
            raise ValueError(
                f"The report can't be kept in {self.path} ({error.strerror}); give another --report."
            ) from None

    def is_done(self, key: str) -> bool:
        """Whether the result `key` is there."""
        return self.result(key).is_file()

    def result(self, key: str) -> Path:
        return self.path / "results" / f"{key}.json"

    def features(self, key: str) -> Path:
        return self.path / "features" / f"{key}.npy"

    def publish(self, key: str, place: Path, row: dict[str, Any]) -> None:
        """Give video.mp4 and features.npy, where they are in the folder `place`, and `row` their names."""
        parts = {"video.mp4": self.path / "videos" / f"{key}.mp4", "features.npy": self.features(key)}
        for name, target in parts.items():
            if (place / name).is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(place / name, target)
        self.write_json(self.result(key), row)

    def rows(self) -> list[dict[str, Any]]:
        """Every result of a contestant so far, in no order."""
        paths = (self.path / "results").glob("*/*/*.json")
        rows = map(self.read_json, paths)
        return [row for row in rows if "model" in row]

    def write_json(self, path: Path, content: Any) -> None:
        self.claims.write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def read_json(self, path: Path) -> Any:
        """ValueError when the file is damaged."""
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise ValueError(f"{path} is damaged; delete it or use another --report.") from None
