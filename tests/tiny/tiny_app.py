"""The app with tiny models, and a server of it in this process."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_evaluation import make_generator
from tiny_media import make_video, tiny_onedva, tiny_regen

from regen.app.limits import Limits
from regen.app.server import load_app
from regen.app.work import App

LIMITS = Limits(max_frames=24, max_side=64, max_upload="200kB")
FRAMES, HEIGHT, WIDTH = 7, 24, 40


@contextmanager
def tiny_app(make_folder: Callable[[str], Path]) -> Iterator[App]:
    """The app with the models tiny-regen and tiny-onedva, and the generators tiny-text and tiny-class.

    `make_folder` gives new folders, as `tmp_path_factory.mktemp` does.
    """
    folder = make_folder("models")
    tiny_regen().save_pretrained(folder / "tiny-regen")
    tiny_onedva().save_pretrained(folder / "tiny-onedva")
    for kind in ("text", "class"):
        shutil.move(make_generator(make_folder("parts"), kind), folder / f"tiny-{kind}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGEN_MODELS", str(folder))
        yield load_app([path.name for path in sorted(folder.iterdir())], LIMITS, device="cpu", dtype="fp32")


def make_clip(folder: Path) -> Path:
    """A clip within the limits."""
    return make_video(folder / "clip.mp4", FRAMES, HEIGHT, WIDTH)


def make_bad_files(folder: Path) -> dict[str, Path]:
    """Clips that are refused, by what is wrong with them."""
    (folder / "notes.mp4").write_text("These are no frames.")
    (folder / "heavy.mp4").write_bytes(bytes(300_000))
    return {
        "wrong": folder / "notes.mp4",
        "heavy": folder / "heavy.mp4",
        "long": make_video(folder / "long.mp4", 25, 24, 40),
        "large": make_video(folder / "large.mp4", 2, 48, 80),
    }
