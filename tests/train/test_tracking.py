"""Trackers get the metrics and previews of a run, by the interface of their own libraries."""

import sys
from types import SimpleNamespace

import pytest
from tiny_media import make_image

from regen.train.throughput import RunLog
from regen.train.tracking import open_tracker, run_id


class Library(SimpleNamespace):
    """A stand-in for wandb or trackio that records what it gets."""

    def __init__(self) -> None:
        super().__init__(Image=lambda picture: ("image", picture), config=SimpleNamespace())
        self.started: list[dict] = []
        self.rows: list[tuple[int, dict]] = []
        self.finished = 0

    def init(self, **options: object) -> "Library":
        self.started.append(options)
        return self

    def log(self, values: dict, step: int) -> None:
        self.rows.append((step, values))

    def finish(self) -> None:
        self.finished += 1


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_gets_metrics_and_previews_and_a_resumed_run_continues_it(name, tmp_path, monkeypatch):
    library = Library()
    monkeypatch.setitem(sys.modules, name, library)
    (tmp_path / "previews").mkdir()
    make_image(tmp_path / "previews" / "step-00000010.png", 4, 6)
    for _ in range(2):
        with RunLog(tmp_path, 0, 40, track=name) as log:
            log.log_evaluation(10, {"psnr": 20.0})
    assert library.rows[0][0] == 10 and library.rows[0][1]["evaluation/psnr"] == 20.0
    step, values = library.rows[1]
    assert (step, values) == (10, {"preview": ("image", str(tmp_path / "previews" / "step-00000010.png"))})
    first, second = library.started
    assert first == second and library.finished == 2
    assert (first["project"], first["name"], first["resume"]) == ("regen", tmp_path.name, "allow")
    assert name != "wandb" or first["id"] == run_id(tmp_path)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_named_and_the_default_is_left_out(name, tmp_path, monkeypatch):
    for module in ("torch.utils.tensorboard", "tensorboardX", name):
        monkeypatch.setitem(sys.modules, module, None)
    if name == "tensorboard":
        monkeypatch.delattr("torch.utils.tensorboard", raising=False)
    with pytest.raises(ValueError, match=f"{name} is not installed.*--track none"):
        open_tracker(name, tmp_path, 0)
    if name == "tensorboard":
        assert open_tracker(None, tmp_path, 0) is None
    assert open_tracker("none", tmp_path, 0) is None
    assert list(tmp_path.iterdir()) == []
