"""Throughput against products counted by other means and clocks set by hand; metrics and the log."""

import json
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from tiny_media import make_image
from torch import Tensor, nn

from regen.embedders.magvit2 import AutoencoderMagvit2, Magvit2Config
from regen.embedders.regen import AutoencoderRegen, RegenConfig
from regen.metrics.cost import count_matmuls, total_flops
from regen.train import throughput
from regen.train.finetune import InitConfig, init_weights
from regen.train.throughput import MetricAverager, RunLog, ThroughputMeter, peak_flops

CPU = torch.device("cpu")
TINY = RegenConfig(
    latent_channels=4, encoder_widths=(8, 8, 16, 16), encoder_blocks=1, encoder_patch_size=4,
    width=48, depth=2, heads=3, siren_width=16,
)  # fmt: skip
BASELINE = Magvit2Config(
    latent_channels=4, encoder_widths=(8, 8, 16, 16), encoder_blocks=1, encoder_patch_size=4
)
MODELS = {
    "regen": lambda: AutoencoderRegen(**asdict(TINY)),
    "in context": lambda: AutoencoderRegen(**asdict(TINY) | {"conditioning": "in_context"}),
    "windows": lambda: AutoencoderRegen(**asdict(TINY) | {"attention_window": 2}),
    "baseline": lambda: AutoencoderMagvit2(**asdict(BASELINE)),
}


def batch(model: nn.Module, clips: int = 3, frames: int | None = None, targets: int = 6) -> dict[str, Tensor]:
    if isinstance(model, AutoencoderMagvit2) or frames == 1:
        targets = frames = frames or 17
    shape = (clips, 3, frames or 5, 32, 48)
    return {
        "clip": torch.rand(shape),
        "target": torch.rand(clips, 3, targets, 32, 48),
        "times": torch.linspace(0, 1, targets),
    }


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """A clock that shows what the test writes into it."""
    now = [100.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])
    return now


def flops(model: nn.Module, *batches: dict[str, Tensor], processes: int = 1) -> float:
    one = ThroughputMeter(model, CPU, processes)
    one.started = time.perf_counter() - 1e6
    for each in batches:
        one.add(each, 0.0)
    return one.report()["tflops_per_second"] * 1e18


@pytest.mark.parametrize(("kind", "frames"), [*((kind, None) for kind in MODELS), ("regen", 1)])
def test_a_step_takes_about_three_times_the_operations_of_its_forward_pass(kind, frames):
    """Less the gradient of the first layers' inputs, which nobody needs."""
    model = MODELS[kind]().train()
    data = batch(model, frames=frames)
    generators = [torch.Generator() for _ in range(3)]
    forward = total_flops(count_matmuls(lambda: model.loss(data, generators)))
    assert 2.7 * forward < flops(model, data) < 3.001 * forward


def test_operations_follow_the_samples_and_the_passes():
    model = MODELS["regen"]()
    one, three, image = (batch(model, clips=1), batch(model), batch(model, frames=1))
    assert flops(model, three) == pytest.approx(3 * flops(model, one))
    assert flops(model, one, image) == pytest.approx(flops(model, one) + flops(model, image))
    assert flops(model, one, processes=4) == pytest.approx(4 * flops(model, one))


def test_frozen_weights_save_their_gradients_and_given_latents_the_encoder():
    model = MODELS["regen"]()
    data = batch(model)
    whole = flops(model, data)
    init_weights(model, InitConfig(freeze=("encoder",)))
    frozen = flops(model, data)
    encoder = total_flops(count_matmuls(lambda: model.encoder(data["clip"])))
    assert whole - 2 * encoder <= frozen < whole - 1.5 * encoder
    given = {name: value for name, value in data.items() if name != "clip"}
    given["latents"] = model.encode(data["clip"]).latent_dist.mode()
    assert flops(model, given) == pytest.approx(frozen - encoder)
    other = MODELS["regen"]()
    init_weights(other, InitConfig(freeze=("decoder",)))
    assert whole * 2 / 3 < flops(other, data) < 0.9 * whole


def test_activations_computed_twice_count_once():
    plain, checkpointing = MODELS["regen"]().train(), MODELS["regen"]().train()
    checkpointing.enable_gradient_checkpointing()
    counts = (flops(model, batch(model)) for model in (plain, checkpointing))
    assert next(counts) == pytest.approx(next(counts))


@pytest.mark.parametrize("kind", ["regen", "baseline"])
def test_counting_leaves_no_trace(kind):
    """Weights, gradients, random numbers and mode of the model are those of before, also under autocast."""
    model = MODELS[kind]().train()
    data = batch(model)
    for parameter in model.parameters():
        parameter.grad = torch.rand_like(parameter)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    random = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert flops(model, data) > 0
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())


def test_rates_are_those_of_all_processes_since_the_last_report(clock):
    model = MODELS["regen"]()
    one = ThroughputMeter(model, CPU, processes=2)
    data = batch(model)
    one.add(data, 1.0)
    one.add(data, 2.0)
    clock[0] += 12.0
    report = one.report()
    assert report["clips_per_second"] == 2 * 6 / 12
    assert report["tokens_per_second"] == 2 * (6 * 6 * 4 * 6) / 12
    assert report["data_wait_fraction"] == 3 / 12
    assert 0.05 < report["memory_gb"] < 100
    assert "mfu" not in report
    one.add(data, 0.0)
    clock[0] += 1000.0
    one.restart_clock()
    one.peak = 1e12
    one.add(data, 0.5)
    clock[0] += 2.0
    again = one.report()
    assert again["clips_per_second"] == 2 * 3 / 2 and again["data_wait_fraction"] == 0.25
    assert again["tflops_per_second"] == pytest.approx(3 * report["tflops_per_second"])
    assert again["mfu"] == pytest.approx(again["tflops_per_second"] / 2), "of each process"


def test_counting_itself_takes_none_of_the_time_and_happens_once(clock, monkeypatch):
    model = MODELS["regen"]()
    one = ThroughputMeter(model, CPU, processes=1)
    calls, loss = [], one.fake.loss

    def counting(*arguments: object) -> object:
        calls.append(arguments)
        clock[0] += 5.0
        return loss(*arguments)

    monkeypatch.setattr(one.fake, "loss", counting)
    for index in range(3):
        one.add(batch(model), 0.0)
        assert len(calls) == min(index, 1), "a pass is never kept waiting"
        clock[0] += 1.0
        assert one.report()["clips_per_second"] == 3.0
        assert one.started == clock[0]
    assert len(calls) == 1


def test_peaks_are_found_by_the_name_of_the_device():
    peaks = {
        "NVIDIA H100 80GB HBM3": 989.5, "NVIDIA H100 PCIe": 756.0, "NVIDIA GH200 480GB": 989.5,
        "NVIDIA A100-SXM4-80GB": 312.0, "NVIDIA A10": 125.0, "NVIDIA L4": 121.0, "NVIDIA L40S": 362.0,
        "NVIDIA GeForce RTX 4090": 165.2, "NVIDIA GeForce RTX 3090 Ti": 80.0,
    }  # fmt: skip
    assert {name: peak_flops(name) for name in peaks} == pytest.approx(
        {k: v * 1e12 for k, v in peaks.items()}
    )
    for name in ("NVIDIA A10G", "RTX 4090 Laptop GPU", "RTX 4090 D", "A100-SXM4-40GB MIG 1g.5gb", "Tesla T4"):
        assert peak_flops(name) is None


VALUES = {"loss": 0.5, "psnr": 20.0, "clips_per_second": 8.0}


def rows(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_metrics_are_averaged_each_value_over_the_steps_that_had_it():
    averager = MetricAverager()
    averager.add({"loss": torch.tensor(1.0), "psnr": torch.tensor(10.0)})
    averager.add({"loss": torch.tensor(2.0, dtype=torch.bfloat16)})
    assert averager.means() == {"loss": 1.5, "psnr": 10.0}


def test_rows_are_written_at_once_and_resumed_runs_log_each_step_once(tmp_path):
    with RunLog(tmp_path, 0, 30) as log:
        for step in (10, 20, 30):
            log.log_training(step, VALUES)
        log.log_evaluation(20, {"psnr": 21.0})
        assert len(rows(tmp_path)) == 4
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 20, "lo')
    with RunLog(tmp_path, 20, 30) as log:
        assert log.has_evaluation
        log.log_training(30, VALUES)
    assert [row["step"] for row in rows(tmp_path)] == [10, 20, 20, 30]
    assert rows(tmp_path)[2].items() > {"step": 20, "evaluation/psnr": 21.0}.items()
    seconds = [row["seconds"] for row in rows(tmp_path)]
    assert seconds == sorted(seconds), "of the whole run"


def test_a_silent_log_shows_and_writes_nothing(tmp_path, capsys):
    with RunLog(tmp_path, 0, 30, is_main=False) as log:
        log.log_training(30, VALUES)
        log.print("nothing")
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_there_are_plain_lines_on_stderr(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(throughput, "PLAIN_SECONDS", 3600.0)
    with RunLog(tmp_path, 0, 40) as log:
        for step in (10, 20, 30, 40):
            log.log_training(step, VALUES)
    out, err = capsys.readouterr()
    first, last = err.splitlines()
    assert out == "" and first.startswith("step 10/40 · ")
    assert last == "step 40/40 · loss 0.5000 · PSNR 20.00 dB · 8.0 clips/s · 0:00:00 left"


def test_on_a_terminal_there_is_a_bar(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with RunLog(tmp_path, 0, 40) as log:
        log.advance(7)
        log.log_training(10, VALUES)
        log.print("a line above the bar")
    error = capsys.readouterr().err
    assert all(text in error for text in ("10/40", "20.00 dB", "a line above the bar"))


def test_tensorboard_gets_the_same_numbers_and_the_previews(tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "previews").mkdir()
    make_image(tmp_path / "previews" / "step-00000010.png")
    with RunLog(tmp_path, 0, 40) as log:
        log.log_training(10, VALUES)
        log.log_evaluation(10, {"psnr": 20.0})
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert all(name.encode() in content for name in (*VALUES, "evaluation/psnr", "preview"))
