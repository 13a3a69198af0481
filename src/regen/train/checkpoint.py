"""Checkpoints of a run: written by all processes together, in the background; whole or absent.

    checkpoints/step-00001234/           whole
      checkpoint.json                    step, configuration, checksums of the files
      .metadata  __0_0.distcp ...        torch.distributed.checkpoint: each process's share
    checkpoints/step-00001234.partial/   being written, or what an interruption has left

Any number of processes can read what any other number has written.
"""

import json
import re
import shutil
import warnings
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from regen.losses.optimizer_state import Size
from regen.train.distributed import LOST_PROCESS, DistributedContext, is_connection_error
from regen.train.state import TrainState, sync_folder, write_json

INFO_FILE = "checkpoint.json"


@dataclass(frozen=True)
class CheckpointInfo:
    """What checkpoint.json says."""

    step: int
    skipped: int
    config: dict[str, Any]
    checksums: dict[str, int | None]


class Checkpoints:
    """The checkpoints in `folder`, of which the newest `keep` stay.

    `save` copies the state to memory and returns; the files are written by a thread meanwhile. A context
    manager: at its end the last one is whole.
    """

    def __init__(self, folder: Path, keep: int, world: DistributedContext) -> None:
        self.folder, self.keep, self.world = folder, keep, world
        cuda = world.device.type == "cuda"
        self.stager = DefaultStager(StagingOptions(cuda, False, False, cuda))
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.writing: Future[None] | None = None
        self.saved_step = -1

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self.thread.shutdown(wait=True)
        self.stager.close()

    @property
    def failed(self) -> bool:
        """Whether the last one could not be written, as far as is known without waiting."""
        return self.writing is not None and self.writing.done() and self.writing.exception() is not None

    def save(self, state: TrainState, resolved_config: dict[str, Any]) -> None:
        """Begin to write the state as it is now; waits for the one before. All processes have to call it.

        Raises ValueError when the one before could not be written.
        """
        self.wait()
        if state.step == self.saved_step:
            return
        staged = self.stager.stage(state.tensors())
        assert isinstance(staged, dict), "staging was not asked to happen in the background"
        facts = CheckpointInfo(state.step, state.skipped, resolved_config, {})
        self.writing = self.thread.submit(self._write, staged, facts)
        self.saved_step = state.step

    def wait(self) -> None:
        """Until the last one is whole. Raises ValueError when it could not be written."""
        if self.writing is not None:
            self.writing.result()
            self.writing = None

    def latest(self) -> Path | None:
        """The newest whole one; all processes have to call it. Removes what interruptions have left."""
        if self.world.is_main:
            remove_partial(self.folder)
        paths = list_checkpoints(self.folder)
        name = self.world.broadcast(paths[-1].name if paths else None)
        return None if name is None else self.folder / name

    def load(self, path: Path, state: TrainState) -> None:
        """Put the checkpoint `path` into `state`; all processes have to call it.

        Raises ValueError when it is damaged or of another model.
        """
        facts = read_info(path)
        mine = sorted(facts.checksums)[self.world.rank :: self.world.size]
        damaged = any(checksum(path / name) != facts.checksums[name] for name in mine)
        if self.world.all_reduce_max(damaged)[0]:
            raise ValueError(f"Checkpoint {path} is damaged; delete it to continue from the one before.")
        sizes = tensor_sizes(path)
        try:
            state.prepare(sizes)
        except KeyError as error:
            raise ValueError(f"Checkpoint {path} is of another model: there is no {error}.") from None
        tensors = state.tensors()
        if other := sorted(sizes.keys() ^ tensors.keys()):
            raise ValueError(f"Checkpoint {path} is of another model: they differ in {other[0]}.")
        silence_single_process_warning()
        load(tensors, checkpoint_id=path, no_dist=self.world.size == 1)
        state.step, state.skipped = facts.step, facts.skipped
        self.saved_step = facts.step

    def _write(self, tensors: dict[str, Tensor], facts: CheckpointInfo) -> None:
        path = self.folder / f"step-{facts.step:08d}"
        partial = path.with_suffix(".partial")
        try:
            sums = self._write_files(partial, tensors)
            if self.world.is_main:
                content = {
                    "step": facts.step,
                    "skipped": facts.skipped,
                    "config": facts.config,
                    "checksums": sums,
                }
                write_json(partial / INFO_FILE, content)
                sync_folder(partial)
                partial.rename(path)
                sync_folder(self.folder)
                remove_older(self.folder, self.keep)
        except (Exception, CheckpointException) as error:  # the latter is no Exception; all are told alike
            if self.world.is_main:
                shutil.rmtree(partial, ignore_errors=True)
            reason = root_cause(error)
            if is_connection_error(reason):
                raise ValueError(LOST_PROCESS) from None
            what = str(getattr(reason, "strerror", None) or reason).partition("\n")[0].rstrip(".")
            raise ValueError(
                f"Checkpoint {path} could not be written ({what}); "
                "make room there and run the same command again."
            ) from None

    def _write_files(self, folder: Path, tensors: dict[str, Tensor]) -> dict[str, int | None]:
        """Write this process's share; the checksums of all files, in the main process."""
        alone = self.world.size == 1
        silence_single_process_warning()
        writer = FileSystemWriter(folder, overwrite=True)
        save(tensors, storage_writer=writer, process_group=self.world.background, no_dist=alone)
        mine = [*folder.glob(f"__{self.world.rank}_*")]
        mine += [folder / ".metadata"] if self.world.is_main else []
        sums = {path.name: checksum(path) for path in mine}
        if alone:
            return sums
        parts: list[dict[str, int | None] | None] = [None] * self.world.size
        dist.all_gather_object(parts, sums, group=self.world.background)
        return {name: value for part in parts for name, value in (part or {}).items()}


def list_checkpoints(folder: Path) -> list[Path]:
    """All whole checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name))


def read_info(path: Path) -> CheckpointInfo:
    """What the checkpoint `path` is. Raises ValueError when that can't be read."""
    try:
        return CheckpointInfo(**json.loads((path / INFO_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        raise ValueError(
            f"Checkpoint {path} is damaged; delete it to continue from the one before."
        ) from None


def tensor_sizes(path: Path) -> dict[str, Size]:
    """Shape and type of every tensor of the checkpoint `path`."""
    entries = FileSystemReader(path).read_metadata().state_dict_metadata
    return {
        name: (entry.size, entry.properties.dtype)
        for name, entry in entries.items()
        if isinstance(entry, TensorStorageMetadata)
    }


def load_ema(path: Path) -> dict[str, Tensor]:
    """The moving average of the model in the checkpoint `path`, on the CPU.

    Raises ValueError when it is damaged.
    """
    facts = read_info(path)
    if any(checksum(path / name) != value for name, value in facts.checksums.items()):
        raise ValueError(f"Checkpoint {path} is damaged; start from another one.")
    sizes = {name: size for name, size in tensor_sizes(path).items() if name.startswith("ema.")}
    tensors = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in sizes.items()}
    silence_single_process_warning()
    load(tensors, checkpoint_id=path, no_dist=True)
    return {name.removeprefix("ema."): tensor for name, tensor in tensors.items()}


def remove_partial(folder: Path) -> None:
    """Delete what interrupted saves and deletions have left."""
    for pattern in ("step-*.partial", "step-*.old"):
        for remains in folder.glob(pattern):
            shutil.rmtree(remains, ignore_errors=True)


def remove_older(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep`; each loses its name first, so that none is ever half there."""
    for path in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(path.rename(path.with_suffix(".old")), ignore_errors=True)


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


def root_cause(error: BaseException) -> BaseException:
    """What lies behind an error, also where torch has put together those of all processes."""
    return next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error


def silence_single_process_warning() -> None:
    """torch warns that a process alone saves as one."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
