"""Several processes that train together on this machine, as torchrun would start them."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from regen.console import Interrupted


@contextmanager
def started(
    count: int, function: Callable[..., Any], *arguments: Any, errors: Path
) -> Iterator[list[BaseProcess]]:
    """`function(*arguments)` in `count` processes; the stderr of each goes to `errors`/RANK.txt.

    Whatever is still alive at the end of the block is killed.
    """
    errors.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_one, args=(rank, count, port, function, arguments, errors))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


def finish(processes: list[BaseProcess], seconds: float = 120) -> list[int | None]:
    for process in processes:
        process.join(seconds)
    return [process.exitcode for process in processes]


def run_ranks(count: int, function: Callable[..., Any], *arguments: Any, errors: Path) -> None:
    with started(count, function, *arguments, errors=errors) as processes:
        codes = finish(processes)
    assert codes == [0] * count, read_errors(errors)


def read_errors(errors: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(errors.glob("*.txt")))


def _one(
    rank: int, count: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...], errors: Path
) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    sys.stderr = (errors / f"{rank}.txt").open("a", buffering=1)
    os.dup2(sys.stderr.fileno(), 2)
    torch.set_num_threads(1)
    code = 0
    try:
        function(*arguments)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        code = stop.exit_code
    except ValueError as error:
        print(f"regen: {error}", file=sys.stderr)
        code = 1
    sys.stderr.flush()
    os._exit(code)
