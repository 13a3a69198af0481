"""What can't be read is counted, named once, replaced by another sample, and never ends a training."""

import signal
import threading
import time
from pathlib import Path

import fsspec
import pytest
import torch
from movies import damage, make_movie, noisy, numbered, truncate
from tiny_shards import make_shards

from regen.data import failures
from regen.data.batches import TrainingBatches
from regen.data.clips import ClipDataset, ClipSpec
from regen.data.failures import HAS_TIMER, Failures, ReadTimeoutError, time_limit
from regen.data.tasks import Stage, TaskConfig
from regen.media.files import MissingFileError, VideoError, read_start
from regen.train.dataloader import BatchLoader

CUT = ClipSpec(5, (16, 24))


@pytest.mark.skipif(not HAS_TIMER, reason="this system has no SIGALRM")
def test_time_limit_interrupts_a_slow_block():
    before = signal.getsignal(signal.SIGALRM)
    with time_limit(5.0, "a.mp4"):
        pass
    with (
        pytest.raises(ReadTimeoutError, match=r"^a\.mp4 could not be read in 0\.1 seconds\.$"),
        time_limit(0.1, "a.mp4"),
    ):
        time.sleep(5)
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.skipif(not HAS_TIMER, reason="this system has no SIGALRM")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_time_limit_interrupts_after_a_slow_destructor():
    class Slow:
        def __del__(self):
            time.sleep(0.3)

    def read():
        with time_limit(0.1, "a.mp4"):
            Slow()
            time.sleep(5)

    with pytest.raises(ReadTimeoutError):
        read()


def test_time_limit_is_off_in_threads_and_beside_another_timer():
    finished = []

    def work() -> None:
        with time_limit(0.01, "a.mp4"):
            time.sleep(0.05)
            finished.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    signal.setitimer(signal.ITIMER_REAL, 30.0)
    try:
        work()
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 25, "the other timer runs on"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    with time_limit(None, "a.mp4"):
        time.sleep(0.02)
    assert finished == [True, True]


def test_records_are_bounded_and_each_sample_is_named_once(monkeypatch, capsys):
    monkeypatch.setattr(failures, "MAX_NAMED", 3)
    record = Failures()
    for number in range(50):
        record.record(f"{number % 10}.mp4", VideoError(f"{number % 10}.mp4 is broken."))
    assert record.counts == {"damaged": 50}
    assert list(record.reasons) == ["0.mp4", "1.mp4", "2.mp4"]
    assert capsys.readouterr().err.count("is broken") == 3
    assert record.record("a", ReadTimeoutError("a is slow.")) == 1
    assert record.record("a", MissingFileError("a is gone.")) == 2
    assert record.slow == set()


@pytest.fixture(params=["folder", "shards"])
def clips(request, tmp_path) -> ClipDataset:
    """Three videos, of which good.mp4 is drawn once in a while."""
    fast = {"movflags": "faststart"}
    files = [
        make_movie(tmp_path / f"{name}.mp4", noisy(40), options={"g": "10"}, container_options=fast)
        for name in ("bad", "good", "other")
    ]
    if request.param == "folder":
        return ClipDataset(files, decode_timeout=0.5)
    shards = make_shards(tmp_path / "shards", files, per_shard=1)
    for path in files:
        path.unlink()
    return ClipDataset([str(shards)], decode_timeout=0.5)


def place_of(tmp_path: Path) -> Path:
    """The file that holds the bytes of bad.mp4."""
    shard = tmp_path / "shards" / "00000.tar"
    return shard if shard.exists() else tmp_path / "bad.mp4"


def assert_replaced(clips: ClipDataset, kind: int, capsys: pytest.CaptureFixture[str]) -> None:
    undamaged = [clips.sample(index, CUT, seed=0) for index in range(12)]
    lost = torch.tensor([sample.replaced for sample in undamaged])
    assert 2 <= (lost.sum(1) > 0).sum() <= 9, "some samples had to be drawn anew, others not"
    assert lost.sum(0).nonzero().flatten().tolist() == [kind]
    assert clips.failures.counts == {failures.KINDS[kind]: int(lost.sum())}
    (name,) = clips.failures.reasons
    assert name.endswith("bad.mp4")
    warnings = capsys.readouterr().err
    assert warnings.count("regen: warning:") == 1 and "bad.mp4" in warnings
    assert warnings.endswith("Another video is drawn instead.\n")


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [(lambda path: damage(path, 0.2, 0.9), 0), (lambda path: truncate(path, 0.3), 0), (Path.unlink, 2)],
    ids=["damaged", "truncated", "gone"],
)
def test_a_sample_that_cannot_be_read_is_replaced(clips, tmp_path, capsys, spoil, kind):
    spoil(place_of(tmp_path))
    assert_replaced(clips, kind, capsys)


def hang_at(path, monkeypatch):
    """Reading `path` waits, as on a disk that does not answer."""

    def hang(source):
        if source == path:
            time.sleep(30)
        return read_start(source)

    monkeypatch.setattr("regen.media.files.read_start", hang)


def test_a_sample_that_hangs_is_replaced_and_waited_for_once(clips, tmp_path, capsys, monkeypatch):
    path = place_of(tmp_path)
    if path.suffix == ".mp4":
        hang_at(path, monkeypatch)
    else:
        cat_file = fsspec.get_filesystem_class("file").cat_file

        def hang(self: object, name: str, start: int, end: int) -> bytes:
            if name.endswith("00000.tar"):
                time.sleep(30)
            return cat_file(self, name, start=start, end=end)

        monkeypatch.setattr(fsspec.get_filesystem_class("file"), "cat_file", hang)
    assert_replaced(clips, 1, capsys)


def test_files_that_hang_at_the_start_are_left_out(tmp_path, monkeypatch):
    make_movie(tmp_path / "good.mp4", numbered(12))
    hang_at(make_movie(tmp_path / "hangs.mp4", numbered(12)), monkeypatch)
    clips = ClipDataset([tmp_path], decode_timeout=0.2)
    assert len(clips) == 1
    assert "could not be read in 0.2 seconds" in clips.skipped[f"{tmp_path}/hangs.mp4"]


def test_a_shard_deleted_while_processes_read_it(tmp_path):
    files = [make_movie(tmp_path / f"{index}.mp4", numbered(12 + index)) for index in range(4)]
    shards = make_shards(tmp_path / "shards", files, per_shard=1)
    tasks, stage = TaskConfig(image_share=0.0, warmup_fraction=1.0), Stage(16, 24, video_batch_size=3)
    data = TrainingBatches(ClipDataset([str(shards)]), 4, tasks, (stage,), (1.0, 1.0), 30, 0)
    keys = [(step, 0, 1) for step in range(30)]
    undisturbed = [data[key]["clip"] for key in keys]
    loaded = []
    with BatchLoader(data, keys, 2, torch.device("cpu")) as loader:
        for index, batch in enumerate(loader):
            loaded.append(batch)
            if index == 5:
                (shards / "00002.tar").unlink()
    assert loader.restarts == 0
    assert loader.counts["gone_samples"] > 3
    assert loader.counts["damaged_samples"] == loader.counts["slow_samples"] == 0
    for batch, whole in zip(loaded, undisturbed, strict=True):
        if batch["replaced"].sum() == 0:
            assert torch.equal(batch["clip"], whole.float() / 127.5 - 1)
