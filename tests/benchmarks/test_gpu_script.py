"""benchmarks/gpu.py runs every line on the CPU, and a section that takes too long ends alone."""

import importlib
import json
import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
gpu = importlib.import_module("gpu")
wheels = importlib.import_module("wheels")


@pytest.mark.integration
@pytest.mark.slow
def test_all_sections_run_dry(tmp_path):
    command = [
        sys.executable,
        "benchmarks/gpu.py",
        "--dry-run",
        "--out",
        tmp_path / "out",
        "--scratch",
        tmp_path,
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    log = (tmp_path / "out" / "gpu.log").read_text()
    assert done.returncode == 0, done.stderr + log[-3000:]
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())["sections"]
    assert {name: one["state"] for name, one in found.items()} == dict.fromkeys(gpu.SECTIONS, "complete"), log
    figures = {name: one["figures"] for name, one in found.items()}
    tests = figures["tests"]["tests"]
    assert tests["tests"] >= 8 and not tests["failed"] and not tests["skipped"], tests
    assert {"seconds", "share_of_time", "share_of_products", "compiled_seconds"} <= figures["decoders"][
        "toy at 32"
    ].keys()
    assert figures["training"]["activations kept"]["tokens_per_second"] > 0
    assert figures["training"]["regen plan"]["memory_gb"] > 0
    assert figures["peers"]["wan-2.1"]["decode_seconds_per_frame"] > 0
    assert {"collectives", "parallel", "checkpoints"} == figures["machine"].keys()
    assert (tmp_path / "out" / "model" / "config.json").is_file()


def test_a_section_that_takes_too_long_is_cut(tmp_path):
    options = ["--out", str(tmp_path), "--scratch", str(tmp_path), "--dry-run"]
    found = gpu.run_section("tests", options, 0.5, tmp_path / "gpu.log", tmp_path)
    assert found["state"] == "cut" and found["figures"] == {} and found["seconds"] < 30


def test_a_section_that_fails_says_so(tmp_path):
    found = gpu.run_section("no such section", [], 300.0, tmp_path / "gpu.log", tmp_path)
    assert found["state"] == "failed" and (tmp_path / "gpu.log").read_text()


def test_packages_that_a_machine_lacks_are_listed(tmp_path):
    here = {one.metadata["Name"]: one.version for one in distributions()}
    (tmp_path / "all.txt").write_text("\n".join(f"{name}=={version}" for name, version in here.items()))
    assert wheels.missing(tmp_path / "all.txt") == []
    fewer = {name: version for name, version in here.items() if name not in ("av", "typeguard")} | {
        "tyro": "0.1"
    }
    (tmp_path / "some.txt").write_text("\n".join(f"{name}=={version}" for name, version in fewer.items()))
    assert {"av", "tyro", "typeguard"} == {name for name, _ in wheels.missing(tmp_path / "some.txt")}
