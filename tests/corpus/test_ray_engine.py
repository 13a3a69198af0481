"""The export on a Ray cluster: the same bytes, also when a process that embeds is killed on the way."""

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_latents import contents, export, long_corpus, make_corpus, make_model, wanted, work_left

from regen import cli
from regen.corpus.dataset import LatentDataset
from regen.corpus.ray_engine import Cluster, connected, export_latents_with_ray

# Ray uses options of its own that it has deprecated (ray 2.60).
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*")]
PATIENCE = 600.0  # seconds for Ray to begin its work on a busy machine
EMBEDDER, DECODER = "ray::MapWorker(Map(EmbeddingActor))", "ray::decode_samples"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    """A cluster of this machine, that thinks it has 2 cores."""
    ray = pytest.importorskip("ray", reason="the engine needs the extra ray")
    pytest.importorskip("ray.data")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "disabled")  # by default a token is written to the home folder
        environment.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        environment.setenv("RAY_worker_niceness", "0")  # on a busy machine they would wait for minutes
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
        with connected() as found:
            assert ray.is_initialized()
            yield found
        assert ray.is_initialized(), "one that was there before is not ended"
        ray.shutdown()


def pids(name: str) -> list[int]:
    """The processes that Ray has given this name."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().decode(errors="replace").startswith(name):
                found.append(int(path.parent.name))
        except OSError:  # it has ended
            continue
    return found


def kill_at_work(out: Path, killed: list[str]) -> None:
    """Kill one process that decodes and the one that embeds, some moment after the first shard is there."""
    end = time.monotonic() + PATIENCE
    while not (out / "00000.json").exists():
        if time.monotonic() > end:
            return
        time.sleep(0.005)
    time.sleep(random.uniform(0, 0.1))
    for name in (DECODER, EMBEDDER):
        for pid in pids(name)[:1]:
            os.kill(pid, signal.SIGKILL)
            killed.append(name)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
def test_killed_ones_are_replaced_and_the_bytes_are_the_same(cluster, tmp_path):
    model, data, killed = make_model(tmp_path / "tiny"), long_corpus(tmp_path / "long", 11), list[str]()
    (data / "bad.mp4").write_bytes(b"no video")
    killer = threading.Thread(target=kill_at_work, args=(tmp_path / "out", killed))
    killer.start()
    progress: list[tuple[int, int]] = []
    export_latents_with_ray(
        wanted(model, data, tmp_path / "out", files_per_shard=2),
        cluster,
        cluster.device("cpu"),
        1,
        lambda done, all: progress.append((done, all)),
    )
    killer.join()
    assert EMBEDDER in killed and progress[0] == (0, 12) and progress[-1] == (12, 12)
    assert contents(tmp_path / "out") == contents(export(model, data, tmp_path / "whole", files_per_shard=2))
    assert work_left(tmp_path / "out") == [] and len(LatentDataset(tmp_path / "out")) == 11


def test_the_command_and_what_an_actor_raises(cluster, tmp_path, capsys, monkeypatch):
    """Paths are those of the folder in which the command runs, wherever the actors do."""
    make_model(tmp_path / "tiny")
    make_corpus(tmp_path / "clips")
    (tmp_path / "out" / "00001.safetensors").mkdir(parents=True)  # nothing can be given this name
    monkeypatch.chdir(tmp_path)
    words = "--data clips --out out --model tiny --dtype fp32 --files-per-shard 3 --engine ray --processes 1"
    assert cli.main(["latents", "export", *words.split()]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("regen: The latents can't be written to ") and "Is a directory" in line
    assert (tmp_path / "out" / "00000.json").exists()


def test_what_a_cluster_can_do():
    small, large = Cluster(cpus=4, gpus=0), Cluster(cpus=64, gpus=8)
    assert (str(small.device(None)), str(large.device(None))) == ("cpu", "cuda")
    assert str(large.device("cpu")) == "cpu" and str(large.device("cuda")) == "cuda"
    assert (small.embedders(small.device(None), None), large.embedders(large.device(None), None)) == (2, 8)
    assert large.embedders(large.device("cuda"), 3) == 3
    with pytest.raises(ValueError, match="has no GPU"):
        small.device("cuda")
    for wish in (0, 4):
        with pytest.raises(ValueError, match=f"1 to 3 .* got {wish}"):
            small.embedders(small.device(None), wish)
    with pytest.raises(ValueError, match="2 CPU cores .* got 1"):
        Cluster(cpus=1, gpus=0).embedders(torch.device("cpu"), None)


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    cluster: Any = connected()
    with pytest.raises(ValueError, match=r'pip install "regen\[ray\]"'):
        cluster.__enter__()
