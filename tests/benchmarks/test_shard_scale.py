"""The benchmark of large shard sets, with a small one: same data for all workers, no memory that grows."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def shard_scale(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("shard_scale")


def test_two_thousand_samples(shard_scale: ModuleType) -> None:
    start, outcomes = shard_scale.measure(2000, 130, (0, 2))
    assert start["open"] < 1
    assert start["split"] < 2
    assert start["megabytes"] < 20
    assert outcomes[0].digest == outcomes[2].digest
    for outcome in outcomes.values():
        assert outcome.megabytes[-1] - outcome.megabytes[0] < 15


def test_data_that_depend_on_the_workers_are_an_error(
    shard_scale: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(batches: object, workers: int) -> object:
        return shard_scale.Outcome(str(workers), [1.0], 1.0)

    monkeypatch.setattr(shard_scale, "read_all", read)
    with pytest.raises(ValueError, match="depend on the number of workers"):
        shard_scale.measure(1000, 101, (0, 2))
