"""What every test shares. Nothing here may import regen: the shape checks hook in after this file is read."""

import gc
import multiprocessing
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Parallelism is by processes (make test runs two): threads that wait for each other would only spin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The libraries come in before the hook of the shape checks, which would compile each of their files anew.
import diffusers.models.autoencoders.vae  # noqa: F401
import torch
import torchmetrics  # noqa: F401
from commands import run_regen, start_command  # noqa: F401
from diffusers.models.attention_dispatch import attention_backend
from diffusers.utils import logging

settings.register_profile("regen", max_examples=15, deadline=None, derandomize=True)
settings.load_profile("regen")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
signal.signal(signal.SIGINT, signal.default_int_handler)  # the shell lets background jobs ignore it


# Files of tests that take a minute or more, the longest first.
LONG = (
    *("test_benchmark", "test_evaluate", "test_one_dva", "test_regen", "test_paper_sizes", "test_latents"),
    *("test_scripts", "test_onedva_run", "test_dataloader", "test_lengths", "test_trainer", "test_hub"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first, or one of two workers would be alone with one of them at the end."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Each test starts from the same global random state, whichever tests came before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def same_settings() -> Iterator[None]:
    """What commands and tests set for their whole process is as before after each test."""
    verbosity, dtype = logging.get_verbosity(), torch.get_default_dtype()
    with attention_backend("native"):  # restores the one before
        yield
    logging.set_verbosity(verbosity)
    torch.set_default_dtype(dtype)


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """No test leaves a worker process behind, which the tests after it would find."""
    before = set(multiprocessing.active_children())
    yield
    if set(multiprocessing.active_children()) - before:
        gc.collect()  # a caught error holds the frames, and they the loader
    for process in set(multiprocessing.active_children()) - before:
        process.join(5)  # one that was killed may still be ending
    assert set(multiprocessing.active_children()) <= before
