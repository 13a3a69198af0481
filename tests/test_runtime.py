"""Device, precision and seeds."""

import os

import pytest
import torch

from regen import runtime
from regen.runtime import (
    DTYPES,
    fold_seed,
    generator_for,
    interruptible,
    pick_device,
    pick_dtype,
    set_threads,
)


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device().type in {"cpu", "cuda", "mps"}
    with pytest.raises(ValueError, match="'fast'"):
        pick_device("fast")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="not available"):
            pick_device("cuda")
    with pytest.raises(ValueError, match="not available"):
        pick_device("xpu")


def test_dtypes():
    cpu = torch.device("cpu")
    assert {name: pick_dtype(name, cpu) for name in DTYPES} == DTYPES
    assert pick_dtype(None, cpu) in {torch.bfloat16, torch.float32}
    assert pick_dtype(None, torch.device("mps")) == torch.float32
    with pytest.raises(ValueError, match="'int8'"):
        pick_dtype("int8", cpu)


def test_bf16_is_not_the_default_where_attention_lacks_it(monkeypatch):
    """Kernels for AVX2 on a processor that has more, as ATEN_CPU_CAPABILITY=default selects them."""
    monkeypatch.setattr(runtime, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setattr(runtime.platform, "machine", lambda: "x86_64")
    assert pick_dtype(None, torch.device("cpu")) == torch.float32


def test_seeds_depend_on_every_index_and_on_their_order():
    seeds = {fold_seed(*numbers) for numbers in ((0,), (1,), (0, 1), (1, 0), (0, 1, 0), (0, -1))}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    draws = [torch.rand(3, generator=generator_for(0, index)) for index in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_threads_are_limited_here_and_in_new_processes(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    before = torch.get_num_threads()
    try:
        set_threads(None)
        assert torch.get_num_threads() == before
        set_threads(1)
        assert torch.get_num_threads() == 1 and os.environ["OMP_NUM_THREADS"] == "1"
    finally:
        torch.set_num_threads(before)
    with pytest.raises(ValueError, match="--threads must be >= 1, got 0"):
        set_threads(0)


def test_a_model_stops_between_two_of_its_modules():
    model, calls = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1)), 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise InterruptedError

    with interruptible(model, check):
        model(torch.ones(1, 2))
        assert calls == 4, "the model and its three parts"
        with pytest.raises(InterruptedError):
            model(torch.ones(1, 2))
    assert calls == 7 and model(torch.ones(1, 2)).shape == (1, 1)
    assert calls == 7, "nothing is called afterwards"
