"""Manifest of the published models, from the package and checkpoints/: python tools/manifest.py.

It writes `src/regen/pretrained/manifest.json`; an entry keeps its repository and revision.
"""

import json
from pathlib import Path
from typing import Any

from regen.io import file_sha256, write_json
from regen.names import BUNDLED, CHECKPOINTS, CONFIG, MANIFEST, WEIGHTS
from regen.pretrained.listing import is_generator, stored_config

OWNER = "regen-video"  # of the repositories on the Hub


def entry(folder: Path, before: dict[str, Any]) -> dict[str, Any]:
    """The entry of one model; `before` is its entry so far."""
    weights = folder / WEIGHTS
    return {
        "kind": "generator" if is_generator(folder) else "embedder",
        "class_name": stored_config(folder)["_class_name"],
        "repository": before.get("repository", f"{OWNER}/{folder.name}"),
        "revision": before.get("revision", "main"),
        "sha256": file_sha256(weights),
        "size": weights.stat().st_size,
    }


def manifest() -> dict[str, Any]:
    """The entries of all models by name."""
    before = json.loads(MANIFEST.read_text()) if MANIFEST.is_file() else {}
    folders = [path.parent for place in (BUNDLED, CHECKPOINTS) for path in place.glob(f"*/{CONFIG}")]
    names = sorted(folders, key=lambda folder: folder.name)
    return {folder.name: entry(folder, before.get(folder.name, {})) for folder in names}


if __name__ == "__main__":
    write_json(MANIFEST, manifest())
