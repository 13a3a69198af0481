"""What a run is made of, its moving average, and checkpoints that are either whole or absent."""

import copy
import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

# These fields change when a run looks and saves, or where a checked file lies, never what is computed.
NEUTRAL_FIELDS = frozenset(
    {"log_every", "eval_every", "save_every_minutes", "keep", "workers", "preview_clips", "perceptual_file"}
)


class Ema:
    """Exponential moving average of the weights, held as a second model that is ready for evaluation."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.sources: list[Tensor] = list(model.parameters())
        self.averages: list[Tensor] = list(self.model.parameters())
        self.buffers = list(model.buffers()), list(self.model.buffers())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights after update `step`; the first updates count more: (1 + s) / (10 + s)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.averages, self.sources, 1 - decay)
        sources, copies = self.buffers
        if copies:
            torch._foreach_copy_(copies, sources)


@runtime_checkable
class Stateful(Protocol):
    """A part of the training that learns or counts beside the model, such as a discriminator."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, saved: dict[str, Any]) -> None: ...


class TrainState:
    """All that a run needs in order to go on: model, moving average, optimizers, updates done, and what else
    learns."""

    def __init__(
        self,
        model: nn.Module,
        ema: Ema,
        optimizers: list[Optimizer],
        step: int = 0,
        further: Stateful | None = None,
    ) -> None:
        self.model = model
        self.ema = ema
        self.optimizers = optimizers
        self.step = step
        self.further = further

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "further": {} if self.further is None else self.further.state_dict(),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        self.ema.model.load_state_dict(saved["ema"])
        for optimizer, values in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.step = saved["step"]
        if self.further is not None:
            self.further.load_state_dict(saved["further"])


def save_checkpoint(folder: Path, state: TrainState, resolved_config: dict[str, Any], keep: int) -> Path:
    """Write `folder`/step-00001234.pt in one move and delete all but the newest `keep` checkpoints.

    Raises ValueError when it can't be written; older checkpoints are then untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{state.step:08d}.pt"
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save({"config": json.dumps(resolved_config), **state.state_dict()}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(folder)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise ValueError(
            f"Checkpoint {path} could not be written ({first_line(error)}); "
            "make room there and run the same command again."
        ) from None
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def load_latest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint in `folder`, on the CPU, or None; remains of interrupted saves are removed.

    Raises ValueError when the newest checkpoint is damaged.
    """
    for remains in folder.glob("step-*.tmp"):
        remains.unlink()
    paths = list_checkpoints(folder)
    return load_checkpoint(paths[-1]) if paths else None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The content of one checkpoint, on the CPU. Raises ValueError when it is damaged."""
    with path.open("rb") as file:
        try:
            # torch.load does not compare checksums: a flipped bit in a weight would pass.
            with zipfile.ZipFile(file) as archive:
                if archive.testzip() is None:
                    file.seek(0)
                    return torch.load(file, map_location="cpu", weights_only=True)
        except Exception:  # damaged bytes can fail in any way
            pass
    raise ValueError(f"Checkpoint {path} is damaged; delete it to continue from the one before.")


def list_checkpoints(folder: Path) -> list[Path]:
    """All finished checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*.pt") if re.fullmatch(r"step-\d{8,}\.pt", path.name))


def open_run(out: Path, resolved_config: dict[str, Any], resume: bool) -> dict[str, Any] | None:
    """Prepare the run folder and return the checkpoint to go on from (None: start at step 0).

    Raises ValueError when a run is there and `resume` is False, or when that run has another configuration.
    """
    saved = load_latest(out / "checkpoints")
    path = out / "config.json"
    if (saved is not None or path.exists()) and not resume:
        raise ValueError(f"There is already a run in {out}; choose another folder, or resume that run.")
    if saved is not None:
        compare_configs(json.loads(saved["config"]), resolved_config, out)
    temporary = path.with_suffix(".tmp")
    try:
        out.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(resolved_config, indent=2) + "\n")
        temporary.replace(path)
    except OSError as error:
        raise ValueError(
            f"The run can't be kept in {out} ({error.strerror}); choose another folder."
        ) from None
    return saved


def compare_configs(saved: dict[str, Any], wanted: dict[str, Any], out: Path) -> None:
    """Raise ValueError with the differences when going on with `wanted` would change the result."""
    before, now = flatten(saved), flatten(json.loads(json.dumps(wanted)))
    differences = [
        f"{name} was {before.get(name, 'absent')} and is now {now.get(name, 'absent')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name, "absent") != now.get(name, "absent")
        and NEUTRAL_FIELDS.isdisjoint(name.split("."))
    ]
    if differences:
        raise ValueError(
            f"The run in {out} has another configuration ({'; '.join(differences)}); "
            "give the same one to continue it, or another folder to start anew."
        )


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut (POSIX asks for a sync of the folder itself)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
