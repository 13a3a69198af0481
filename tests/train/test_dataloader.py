"""Batches arrive whole and in order whatever happens to the processes that load them."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from regen.data.batches import BatchKey
from regen.train.dataloader import MAX_RESTARTS, BatchLoader

CPU = torch.device("cpu")
KEYS = [(step, part, 2) for step in range(12) for part in range(2)]


class Numbered(Dataset[dict[str, Tensor]]):
    """Batches that say which they are. At the keys of `accidents` something happens before, once each unless
    `always`; `folder` remembers what has happened already, and who loads."""

    def __init__(
        self,
        folder: Path,
        accidents: dict[BatchKey, Callable[[], object]] | None = None,
        always: bool = False,
    ) -> None:
        self.folder, self.accidents, self.always = folder, accidents or {}, always

    def __getitem__(self, key: BatchKey) -> dict[str, Tensor]:
        (self.folder / f"pid-{os.getpid()}").touch()
        mark = self.folder / "-".join(map(str, key))
        if key in self.accidents and (self.always or not mark.exists()):
            mark.touch()
            self.accidents[key]()
        generator = torch.Generator().manual_seed(100 * key[0] + key[1])
        video = torch.randint(0, 256, (2, 3, 5, 16, 24), generator=generator, dtype=torch.uint8)
        return {
            "clip": video,
            "target": video,
            "times": torch.rand(5, generator=generator),
            "rows": torch.tensor([2 * key[1], 2 * key[1] + 1]),
            "batch_size": torch.tensor(4),
            "replaced": torch.tensor([key[0] % 2, 0, 1]),
        }

    def pids(self) -> list[int]:
        return [int(path.name.removeprefix("pid-")) for path in self.folder.glob("pid-*")]


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def load_all(
    batches: Dataset[dict[str, Tensor]], workers: int, timeout: float = 60.0
) -> tuple[list[dict[str, Tensor]], BatchLoader]:
    with BatchLoader(batches, KEYS, workers, CPU, timeout) as loader:
        loaded = list(loader)
    assert multiprocessing.active_children() == []
    return loaded, loader


def assert_undisturbed(loaded: list[dict[str, Tensor]], folder: Path) -> None:
    expected = Numbered(folder)
    assert len(loaded) == len(KEYS)
    for key, batch in zip(KEYS, loaded, strict=True):
        whole = expected[key]
        assert batch.keys() == whole.keys()
        assert torch.equal(batch["clip"], whole["clip"].float() / 127.5 - 1)
        assert torch.equal(batch["target"], batch["clip"])
        for name in ("times", "rows", "batch_size", "replaced"):
            assert torch.equal(batch[name], whole[name])
            assert batch[name].dtype == whole[name].dtype


@pytest.mark.parametrize("workers", [0, 3])
def test_the_order_is_that_of_the_keys(tmp_path, workers):
    batches = Numbered(tmp_path)
    loaded, loader = load_all(batches, workers)
    assert_undisturbed(loaded, tmp_path)
    samples = {"damaged_samples": 12, "slow_samples": 0, "gone_samples": 24}
    assert loader.counts == samples | {"loader_restarts": 0}
    assert loader.waited > 0


def test_waiting_is_timed_and_working_is_not(tmp_path):
    slow = Numbered(tmp_path, {KEYS[0]: lambda: time.sleep(0.3)})
    start = time.perf_counter()
    with BatchLoader(slow, KEYS[:3], 1, CPU) as loader:
        for _ in loader:
            time.sleep(0.2)
    assert loader.waited >= 0.3
    assert loader.waited + 3 * 0.2 <= time.perf_counter() - start


@pytest.mark.integration
@pytest.mark.parametrize("accident", [kill, stop, lambda: os._exit(0)], ids=["kill", "stop", "exit"])
def test_a_lost_process_costs_nothing_but_time(tmp_path, accident, capfd):
    batches = Numbered(tmp_path, {KEYS[5]: accident, KEYS[13]: accident})
    loaded, loader = load_all(batches, workers=2, timeout=2.0)
    assert_undisturbed(loaded, tmp_path)
    assert loader.restarts == 2
    error = capfd.readouterr().err
    assert error.count("are restarted") == 2
    assert "while batch 2 (part 2 of 2) was loaded" in error
    assert not any(is_running(pid) for pid in batches.pids() if pid != os.getpid())


@pytest.mark.integration
@pytest.mark.parametrize(
    ("number", "is_lost"),
    [(signal.SIGKILL, True), (signal.SIGSTOP, True), (signal.SIGINT, False), (signal.SIGTERM, False)],
)
def test_signals_to_the_processes_at_any_moment(tmp_path, number, is_lost):
    """From outside, at random times: while they load, send, or wait for work."""
    batches, loaded = Numbered(tmp_path), []
    with BatchLoader(batches, KEYS, 3, CPU, timeout=2.0 if is_lost else 60.0) as loader:
        for index, batch in enumerate(loader):
            loaded.append(batch)
            if index in (3, 10, 17):
                children = multiprocessing.active_children()
                os.kill(children[index % len(children)].pid or 0, number)
                time.sleep(0.01 * index)
    assert_undisturbed(loaded, tmp_path)
    assert is_lost or loader.restarts == 0
    assert not any(is_running(pid) for pid in batches.pids() if pid != os.getpid())


def test_the_same_batch_fails_again_and_again(tmp_path):
    batches = Numbered(tmp_path, {KEYS[4]: kill}, always=True)
    with pytest.raises(ValueError, match=r"^4 times a data loading process died \(exit code -9\)") as error:
        load_all(batches, workers=2)
    assert "\n" not in str(error.value)
    assert multiprocessing.active_children() == []
    assert MAX_RESTARTS == 3


def nothing_to_read() -> None:
    raise ValueError("There is nothing to read: give another folder.")


def mistake() -> None:
    raise KeyError("a mistake in the program")


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_of_the_data_keep_their_sentence_and_others_their_traceback(tmp_path, workers):
    with pytest.raises(ValueError, match=r"^There is nothing"):
        load_all(Numbered(tmp_path, {KEYS[7]: nothing_to_read}), workers)
    error, match = (RuntimeError, "in mistake\n(.*\n)*KeyError") if workers else (KeyError, "a mistake")
    with pytest.raises(error, match=match):
        load_all(Numbered(tmp_path, {KEYS[8]: mistake}), workers)
    assert multiprocessing.active_children() == []


PROGRAM = """
import os, sys, time
from pathlib import Path
import torch
sys.path.insert(0, {folder!r})
from tests.train.test_dataloader import CPU, Numbered
from regen.train.dataloader import BatchLoader

if __name__ == "__main__":
    loader = BatchLoader(Numbered(Path(sys.argv[1])), [(step, 0, 1) for step in range(1000)], 3, CPU)
    iterator = iter(loader)
    for _ in range(6):
        next(iterator)
    print("ready", flush=True)
    if sys.argv[2] == "wait":
        time.sleep(60)
"""


@pytest.mark.integration
@pytest.mark.parametrize("how", ["wait", "leave"])
def test_no_process_outlives_the_main_one(tmp_path, how):
    """Killed, or at its end without closing the loader."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(folder=str(Path(__file__).parents[2])))
    command = [sys.executable, str(program), str(tmp_path), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if how == "wait":
            process.kill()
        process.wait(timeout=20)
        end = time.monotonic() + 10
        while any(is_running(pid) for pid in Numbered(tmp_path).pids()):
            assert time.monotonic() < end, "a process that loads data was left behind"
            time.sleep(0.05)


TORCH_PROGRAM = """
import os, signal, sys, time, torch
from torch.utils.data import DataLoader

if __name__ == "__main__":
    iterator = iter(DataLoader([torch.zeros(4)] * 1000, batch_size=None, num_workers=2, timeout=1))
    next(iterator)
    try:
        os.kill(iterator._workers[0].pid, getattr(signal, sys.argv[1]))
        for _ in range(100):  # a training step
            time.sleep(0.1)
    except RuntimeError:
        print("raised within the step", flush=True)
    for _ in range(10):
        next(iterator)
"""


@pytest.mark.integration
@pytest.mark.parametrize("number", ["SIGKILL", pytest.param("SIGSTOP", marks=pytest.mark.slow)])
def test_why_the_loader_is_not_that_of_torch(tmp_path, number):
    """A dead worker raises in the middle of a step, and a stopped one keeps the program from ending."""
    program = tmp_path / "program.py"
    program.write_text(TORCH_PROGRAM)
    command = [sys.executable, str(program), number]
    with subprocess.Popen(command, stdout=-1, stderr=-3, text=True, start_new_session=True) as process:
        try:
            output, _ = process.communicate(timeout=60)
            assert number == "SIGKILL" and output.startswith("raised within the step")
        except subprocess.TimeoutExpired:
            assert number == "SIGSTOP"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
