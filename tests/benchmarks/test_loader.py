"""The loader's benchmark compares like with like: the plain function reads the very same clips."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from regen.data.clips import ClipDataset
from regen.data.tasks import Stage, TrainingBatches

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("loader")


def test_both_read_the_same_clips(loader: ModuleType, tmp_path: Path) -> None:
    loader.write_shards(loader.copies(tmp_path)[:2], tmp_path / "shards")
    stage = Stage(64, 96, video_batch_size=3, image_batch_size=1)
    sources = [
        TrainingBatches(ClipDataset(paths), 4, loader.TASKS, (stage,), (0.5, 1.0), 2, 0)
        for paths in ([tmp_path / "000.mp4", tmp_path / "001.mp4"], [tmp_path / "shards"])
    ]
    keys = [(0, 0, 1), (1, 0, 1)]
    by_hand = torch.stack(
        [loader.read_by_hand(one, exact=True) for one in loader.excerpts_of(sources[0], keys)]
    )
    for source in sources:
        assert torch.equal(torch.cat([source[key]["clip"] for key in keys]), by_hand)


def test_every_part_has_a_time(loader: ModuleType, tmp_path: Path) -> None:
    loader.write_shards(loader.copies(tmp_path)[:2], tmp_path / "shards")
    stage = Stage(64, 96, video_batch_size=2, image_batch_size=1)
    source = TrainingBatches(ClipDataset([tmp_path / "shards"]), 4, loader.TASKS, (stage,), (0.5, 1.0), 4, 0)
    parts = loader.milliseconds_by_part(source, [(step, 0, 1) for step in range(4)])
    assert all(value > 0 for name, value in parts.items() if name != "to the trainer, in floats")
    assert max(parts, key=parts.__getitem__) == "seek and decode"
