"""What a run is made of, its moving average, and the folder that it lies in."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from regen.losses.optimizer_state import Size, below, make_moments, moments

# These fields change when a run looks and saves, where a checked file lies, on how many processes or in how
# many passes it computes, or what it does where it would else end: never what is computed.
NEUTRAL_FIELDS = frozenset(
    {
        "log_every",
        "eval_every",
        "save_every_minutes",
        "keep_last",
        "num_workers",
        "num_val_clips",
        "perceptual_file",
    }
    | {"gradient_accumulation_steps", "fsdp", "on_nonfinite", "decode_timeout", "loader_timeout"}
)


class Ema:
    """Exponential moving average of the weights, held as a second model that is ready for evaluation.

    `average` is a copy of `model` at the start.
    """

    def __init__(self, model: nn.Module, average: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = average.eval().requires_grad_(False)
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

    def tensors(self) -> dict[str, Tensor]:
        """All that it keeps; loading writes into these."""
        ...

    def prepare(self, sizes: dict[str, Size]) -> None:
        """Make those of its tensors that are in a checkpoint and not there before the first update."""
        ...


class TrainState:
    """All that a run needs in order to go on: model, moving average, optimizers, updates done, and what else
    learns. `skipped` counts the updates that were left out because they were no numbers.
    """

    def __init__(
        self, model: nn.Module, ema: Ema, optimizers: list[Optimizer], further: Stateful | None = None
    ) -> None:
        self.model = model
        self.ema = ema
        self.optimizers = optimizers
        self.further = further
        self.step = 0
        self.skipped = 0

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor under one name; they share memory with the state."""
        parts = {
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict(),
            "optimizer": moments(self.optimizers, self._parameters()),
            "further": {} if self.further is None else self.further.tensors(),
        }
        return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}

    def prepare(self, sizes: dict[str, Size]) -> None:
        """Make the tensors of a checkpoint that come into being with the first update."""
        make_moments(self.optimizers, self._parameters(), below("optimizer", sizes))
        if self.further is not None:
            self.further.prepare(below("further", sizes))

    def _parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.model.named_parameters())


def open_run(
    out: Path, resolved_config: dict[str, Any], saved: dict[str, Any] | None, resume: bool, write: bool = True
) -> None:
    """Check the run folder, and prepare it where `write` says so; `saved` is the configuration of the
    checkpoint to go on from, if there is one.

    Raises ValueError when a run is there and `resume` is False, or when that run has another configuration.
    """
    path = out / "config.json"
    if (saved is not None or path.exists()) and not resume:
        raise ValueError(f"There is already a run in {out}; choose another folder, or resume that run.")
    if saved is not None:
        compare_configs(saved, resolved_config, out)
    if not write:
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, resolved_config | {"fingerprint": fingerprint(resolved_config)})
    except OSError as error:
        raise ValueError(
            f"The run can't be kept in {out} ({error.strerror}); choose another folder."
        ) from None


def fingerprint(config: dict[str, Any]) -> str:
    """16 hexadecimal digits for all of a configuration that acts on the result."""
    flat = {name: value for name, value in flatten(config).items() if affects_result(name)}
    text = json.dumps(flat, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def affects_result(name: str) -> bool:
    """Whether the field with this dotted name acts on the result."""
    return NEUTRAL_FIELDS.isdisjoint(name.split("."))


def compare_configs(saved: dict[str, Any], wanted: dict[str, Any], out: Path) -> None:
    """Raise ValueError with the differences when going on with `wanted` would change the result."""
    before, now = flatten(saved), flatten(json.loads(json.dumps(wanted)))
    differences = [
        f"{name} was {before.get(name, 'absent')} and is now {now.get(name, 'absent')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name, "absent") != now.get(name, "absent") and affects_result(name)
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


def write_json(path: Path, content: dict[str, Any]) -> None:
    """A file that is whole under its name, or not there."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as file:
        file.write(json.dumps(content, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut (POSIX asks for a sync of the folder itself)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
