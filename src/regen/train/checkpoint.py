"""Training state and its checkpoints.

    checkpoints/step-00001234/           complete
      checkpoint.json                    step, configuration, checksums of the files
      .metadata  __0_0.distcp ...        torch.distributed.checkpoint: one shard per process
    checkpoints/step-00001234.partial/   being written, or left by an interruption

All processes write a checkpoint together, in the background; any number of processes can read it.
"""

import re
import shutil
import warnings
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from regen.console import first_line
from regen.io import check_types, read_json, sync_folder, write_json
from regen.losses.auxiliary import AuxiliaryLosses
from regen.losses.optimizer_state import TensorSpec, allocate_state, named_state, strip_prefix
from regen.train.distributed import LOST_PROCESS, DistributedContext, is_connection_error

INFO_FILE = "checkpoint.json"
DAMAGED = "Checkpoint {} is damaged; delete it to resume from the previous one."


class Ema:
    """Exponential moving average of the weights, in `average`, a copy of `model` for evaluation."""

    def __init__(self, model: nn.Module, average: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = average.eval().requires_grad_(False)
        self.sources: list[Tensor] = list(model.parameters())
        self.averages: list[Tensor] = list(self.model.parameters())
        self.buffers = list(model.buffers()), list(self.model.buffers())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Average in the weights after update `step`; the decay is at most (1 + step) / (10 + step)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.averages, self.sources, 1 - decay)
        sources, copies = self.buffers
        if copies:
            torch._foreach_copy_(copies, sources)


class TrainState:
    """Everything a run resumes from; `skipped` counts updates whose loss or gradient was not finite."""

    def __init__(
        self, model: nn.Module, ema: Ema, optimizers: list[Optimizer], auxiliary: AuxiliaryLosses | None
    ) -> None:
        self.model, self.ema, self.optimizers, self.auxiliary = model, ema, optimizers, auxiliary
        self.step = self.skipped = 0

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name, sharing its memory."""
        parts = {
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict(),
            "optimizer": named_state(self.optimizers, dict(self.model.named_parameters())),
            "auxiliary": {} if self.auxiliary is None else self.auxiliary.tensors(),
        }
        return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}

    def prepare(self, specs: dict[str, TensorSpec]) -> None:
        """Allocate the tensors of a checkpoint that do not exist before the first update."""
        allocate_state(self.optimizers, dict(self.model.named_parameters()), strip_prefix("optimizer", specs))
        if self.auxiliary is not None:
            self.auxiliary.prepare(strip_prefix("auxiliary", specs))


@dataclass(frozen=True)
class CheckpointInfo:
    """Content of checkpoint.json."""

    step: int
    skipped: int
    config: dict[str, Any]
    checksums: dict[str, int | None]


class Checkpoints(AbstractContextManager["Checkpoints"]):
    """The checkpoints in `folder`, of which the newest `keep_last` are kept.

    `save` copies the state to memory and returns while a thread writes the files; leaving the context waits
    for that thread.
    """

    def __init__(self, folder: Path, keep_last: int, context: DistributedContext) -> None:
        self.folder, self.keep_last, self.context = folder, keep_last, context
        cuda = context.device.type == "cuda"
        self.stager = DefaultStager(StagingOptions(cuda, False, False, cuda))
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.writing: Future[None] | None = None
        self.saved_step = -1

    def __exit__(self, *error: object) -> None:
        self.thread.shutdown(wait=True)
        self.stager.close()

    @property
    def failed(self) -> bool:
        """Whether writing the last checkpoint has failed, as far as is known without waiting."""
        return self.writing is not None and self.writing.done() and self.writing.exception() is not None

    def save(self, state: TrainState, resolved_config: dict[str, Any]) -> None:
        """Start to write the state as it is now, after `wait` for the previous checkpoint. Collective."""
        self.wait()
        if state.step == self.saved_step:
            return
        staged = self.stager.stage(state.tensors())
        assert isinstance(staged, dict), "staging is synchronous"
        info = CheckpointInfo(state.step, state.skipped, resolved_config, {})
        self.writing = self.thread.submit(self._write, staged, info)
        self.saved_step = state.step

    def wait(self) -> None:
        """Wait until the last checkpoint is complete. Raises ValueError when it could not be written."""
        if self.writing is not None:
            self.writing.result()
            self.writing = None

    def latest(self) -> Path | None:
        """The newest complete checkpoint; removes the remains of interrupted saves. Collective."""
        if self.context.is_main:
            for remains in (*self.folder.glob("step-*.partial"), *self.folder.glob("step-*.old")):
                shutil.rmtree(remains, ignore_errors=True)
        paths = list_checkpoints(self.folder)
        name = self.context.broadcast(paths[-1].name if paths else None)
        return None if name is None else self.folder / name

    def load(self, path: Path, state: TrainState) -> None:
        """Load the checkpoint `path` into `state`; ValueError for damaged or another model's. Collective."""
        info = read_info(path)
        own_files = sorted(info.checksums)[self.context.rank :: self.context.size]
        damaged = any(checksum(path / name) != info.checksums[name] for name in own_files)
        if self.context.all_reduce_max(damaged)[0]:
            raise ValueError(DAMAGED.format(path))
        specs = tensor_specs(path)
        try:
            state.prepare(specs)
        except KeyError as error:
            raise ValueError(f"Checkpoint {path} is of another model: there is no {error}.") from None
        tensors = state.tensors()
        if different := sorted(specs.keys() ^ tensors.keys()):
            raise ValueError(f"Checkpoint {path} is of another model: they differ in {different[0]}.")
        silence_single_process_warning()
        load(tensors, checkpoint_id=path, no_dist=self.context.size == 1)
        state.step, state.skipped = info.step, info.skipped
        self.saved_step = info.step

    def _write(self, tensors: dict[str, Tensor], info: CheckpointInfo) -> None:
        path = self.folder / f"step-{info.step:08d}"
        partial = path.with_suffix(".partial")
        try:
            info.checksums.update(self._write_files(partial, tensors))
            if self.context.is_main:
                write_json(partial / INFO_FILE, asdict(info))
                sync_folder(partial)
                partial.rename(path)
                sync_folder(self.folder)
                for old in list_checkpoints(self.folder)[: -self.keep_last]:
                    # Renamed first, so that a checkpoint is complete or absent.
                    shutil.rmtree(old.rename(old.with_suffix(".old")), ignore_errors=True)
        except (Exception, CheckpointException) as error:  # CheckpointException is not an Exception
            if self.context.is_main:
                shutil.rmtree(partial, ignore_errors=True)
            reason: BaseException = error
            if isinstance(error, CheckpointException):
                reason = next(iter(error.failures.values()))[0]
            if is_connection_error(reason):
                raise ValueError(LOST_PROCESS) from None
            raise ValueError(
                f"Checkpoint {path} could not be written ({first_line(reason)}); free some space and run the "
                "same command again."
            ) from None

    def _write_files(self, folder: Path, tensors: dict[str, Tensor]) -> dict[str, int | None]:
        """Write this process's shard; returns the checksums of the files of all processes."""
        is_single, group = self.context.size == 1, self.context.background
        silence_single_process_warning()
        writer = FileSystemWriter(folder, overwrite=True)
        save(tensors, storage_writer=writer, process_group=group, no_dist=is_single)
        own_files = [*folder.glob(f"__{self.context.rank}_*")]
        own_files += [folder / ".metadata"] if self.context.is_main else []
        parts = [{path.name: checksum(path) for path in own_files}] * self.context.size
        if not is_single:
            dist.all_gather_object(parts, parts[0], group=group)
        return {name: value for part in parts for name, value in part.items()}


def list_checkpoints(folder: Path) -> list[Path]:
    """All complete checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name))


def read_info(path: Path) -> CheckpointInfo:
    """The checkpoint.json of the checkpoint `path`. Raises ValueError when it can't be read."""
    try:
        info = CheckpointInfo(**read_json(path / INFO_FILE))
        check_types(info)
        files = {".metadata", *(file.name for file in path.iterdir())} - {INFO_FILE}
        if not files <= info.checksums.keys() or min(info.step, info.skipped) < 0:
            raise ValueError("there are files without a checksum")
        return info
    except (OSError, ValueError, TypeError):
        raise ValueError(DAMAGED.format(path)) from None


def tensor_specs(path: Path) -> dict[str, TensorSpec]:
    """Shape and dtype of every tensor of the checkpoint `path`."""
    entries = FileSystemReader(path).read_metadata().state_dict_metadata
    return {
        name: (entry.size, entry.properties.dtype)
        for name, entry in entries.items()
        if isinstance(entry, TensorStorageMetadata)
    }


def read_tensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of the checkpoint `path` whose names begin with `prefix`, on the CPU."""
    specs = {name: spec for name, spec in tensor_specs(path).items() if name.startswith(prefix)}
    tensors = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in specs.items()}
    silence_single_process_warning()
    load(tensors, checkpoint_id=path, no_dist=True)
    return tensors


def load_ema(path: Path) -> dict[str, Tensor]:
    """EMA weights of the checkpoint `path`, on the CPU. Raises ValueError when it is damaged."""
    checksums = read_info(path).checksums
    if any(checksum(path / name) != value for name, value in checksums.items()):
        raise ValueError(f"Checkpoint {path} is damaged; use another one.")
    return {name.removeprefix("ema."): tensor for name, tensor in read_tensors(path, "ema.").items()}


def checksum(path: Path) -> int | None:
    """CRC-32 of a file; None when it can't be read."""
    value = 0
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                value = zlib.crc32(block, value)
    except OSError:
        return None
    return value


def silence_single_process_warning() -> None:
    warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
