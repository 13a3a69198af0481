"""Where Unix has modules and signals that Windows lacks, the package still imports and works."""

import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import psutil
import torch

from regen.data import failures
from regen.data.failures import time_limit
from regen.metrics import cost

# The libraries have their own ways; what they have loaded stays.
IMPORT_ALL = """
import importlib, os, pkgutil, signal, sys
import accelerate, av, diffusers.models.autoencoders.vae, filelock, fsspec, psutil, torch
import torch.utils.data, torchmetrics, diffusers.pipelines.pipeline_utils, torch.distributed.fsdp
for name in ("resource", "fcntl", "grp", "pwd", "termios"):
    sys.modules[name] = None
for name in "SIGUSR1 SIGUSR2 SIGALRM SIGHUP SIGKILL ITIMER_REAL setitimer getitimer alarm".split():
    delattr(signal, name)
for name in ("fork", "getuid", "geteuid", "uname", "sched_getaffinity", "killpg"):
    if hasattr(os, name):
        delattr(os, name)
import regen
modules = [module.name for module in pkgutil.walk_packages(regen.__path__, "regen.")]
for name in modules:
    if name != "regen.__main__":
        importlib.import_module(name)
print(len(modules))
from regen.console import STOP_SIGNALS
assert STOP_SIGNALS == (signal.SIGINT, signal.SIGTERM)
"""


def test_all_modules_import_without_unix():
    ran = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 150


def test_without_a_timer_nothing_is_limited(monkeypatch):
    monkeypatch.setattr(failures, "HAS_TIMER", False)
    for name in ("SIGALRM", "setitimer", "getitimer"):
        monkeypatch.delattr(signal, name, raising=False)
    with time_limit(0.001, "clip"):
        threading.Event().wait(0.01)


def test_without_resource_psutil_knows_the_peak(monkeypatch):
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=12_000_000))
    monkeypatch.setattr(cost, "resource", None)
    monkeypatch.setattr(psutil, "Process", lambda: process)
    assert cost.PeakMemory(torch.device("cpu")).megabytes() == 12.0
