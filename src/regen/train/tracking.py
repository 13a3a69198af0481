"""Trackers of a run besides its log: TensorBoard, Weights & Biases or trackio."""

import hashlib
import os
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from PIL import Image

TrackerName = Literal["tensorboard", "wandb", "trackio", "none"]
PROJECT = "regen"


@runtime_checkable
class Tracker(Protocol):
    """Receives the metrics and pictures of a run; a resumed run continues its curves."""

    def log(self, step: int, values: dict[str, float]) -> None: ...

    def log_picture(self, step: int, path: Path) -> None:
        """Log a picture, such as the preview of an evaluation."""
        ...

    def close(self) -> None: ...


class TensorBoard:
    """TensorBoard's files in `out`/tensorboard; what it has after `step` is dropped."""

    def __init__(self, out: Path, step: int) -> None:
        library = import_module("torch.utils.tensorboard")
        self.writer = library.SummaryWriter(out / "tensorboard", purge_step=step + 1)

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def log_picture(self, step: int, path: Path) -> None:
        with Image.open(path) as image:
            self.writer.add_image("preview", np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class RunTracker:
    """A run of wandb or trackio, which have one interface; their own settings choose account and server."""

    def __init__(self, name: str, out: Path, **options: Any) -> None:
        self.package = import_module(name)
        self.run = self.package.init(project=PROJECT, name=out.resolve().name, resume="allow", **options)

    def log(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def log_picture(self, step: int, path: Path) -> None:
        self.run.log({"preview": self.package.Image(str(path))}, step=step)

    def close(self) -> None:
        self.run.finish()


def open_tracker(name: TrackerName | None, out: Path, step: int) -> Tracker | None:
    """The tracker of the run in `out`, which stands at `step`.

    None for "none", and without a name where TensorBoard is not installed. Raises ValueError when the named
    one is not installed.
    """
    try:
        match name:
            case "none":
                return None
            case "wandb":
                return RunTracker(name, out, id=run_id(out), dir=str(out))
            case "trackio":
                return RunTracker(name, out)
            case _:
                return TensorBoard(out, step)
    except ImportError:
        if name is None:
            return None
        advice = f"pip install 'regen[{name}]', or train with --track none"
        raise ValueError(f"{name} is not installed: {advice}.") from None


def run_id(out: Path) -> str:
    """16 hexadecimal digits of the folder, by which a resumed run finds itself."""
    return hashlib.blake2b(os.fsencode(out.resolve()), digest_size=8).hexdigest()
