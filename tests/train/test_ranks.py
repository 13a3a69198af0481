"""Several processes: the same training as in one, and what happens when one is stopped, killed or wrong."""

import os
import random
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from ranks import finish, read_errors, run_ranks, started
from tiny_networks import awake
from tiny_run import STEPS, TinyBatches, assert_same, run_tiny, saved_tensors
from torch import nn

from regen.embedders.preview import fit_rgb_factors
from regen.embedders.regen import AutoencoderRegen
from regen.runtime import generator_for, one_thread
from regen.train.checkpoint import list_checkpoints
from regen.train.distributed import (
    LossFunction,
    full_state_dict,
    full_tensor,
    init_distributed,
    parallelize,
    shard,
)
from regen.train.latent_statistics import measure_latent_statistics, small_batches
from regen.train.lifecycle import ShouldStop

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def one_thread_as_in_the_processes() -> Iterator[None]:
    with one_thread():
        yield


def assert_close(out: Path, other: Path) -> None:
    torch.testing.assert_close(saved_tensors(out), saved_tensors(other), atol=2e-6, rtol=1e-4)


SPLITS = {
    "four-passes": (1, {"gradient_accumulation_steps": 4}),
    "ddp": (2, {}),
    "ddp-two-passes": (2, {"gradient_accumulation_steps": 2}),
    "fsdp": (2, {"fsdp": True}),
    "four-ranks": (4, {}),
}


@pytest.mark.parametrize(("ranks", "options"), SPLITS.values(), ids=SPLITS)
def test_any_split_of_the_batch_trains_the_same(ranks, options, tmp_path):
    run = partial(run_tiny, steps=12, muon=False)
    run(tmp_path / "whole")
    run_ranks(ranks, partial(run, **options), tmp_path / "parts", errors=tmp_path / "errors")
    assert_close(tmp_path / "whole", tmp_path / "parts")


def test_a_run_moves_between_numbers_of_processes_and_ways_to_share(tmp_path):
    run_tiny(tmp_path / "whole", steps=12, muon=False)
    for ranks, stop_after, fsdp in ((2, 3, False), (1, 5, False), (2, 8, True), (1, None, False)):
        run = partial(run_tiny, steps=12, muon=False, fsdp=fsdp, batches=TinyBatches(stop_after=stop_after))
        with started(ranks, run, tmp_path / "moved", errors=tmp_path / "errors") as processes:
            codes = finish(processes)
        assert codes == [143 if stop_after else 0] * ranks, read_errors(tmp_path / "errors")
    assert_close(tmp_path / "whole", tmp_path / "moved")


def start_slow(out: Path, num_workers: int = 0) -> None:
    run_tiny(out, batches=TinyBatches(seconds=0.01), save_every_minutes=0.0, num_workers=num_workers)


def newest_step(out: Path) -> int:
    paths = list_checkpoints(out / "checkpoints")
    return int(paths[-1].name.removeprefix("step-")) if paths else 0


@pytest.mark.parametrize(("ranks", "victims"), [(1, (0,)), (2, (0,)), (2, (1,)), (2, (0, 1))])
def test_killed_at_any_moment_the_same_command_ends_in_the_same_bits(ranks, victims, tmp_path):
    """Every step writes a checkpoint, so most kills fall into one."""
    out, errors, draw = tmp_path / "run", tmp_path / "errors", random.Random()
    run = partial(start_slow, out, num_workers=1 if ranks == 1 else 0)
    for _ in range(2):
        begun = newest_step(out)
        if begun == STEPS:  # on a busy machine the kill came too late
            break
        with started(ranks, run, errors=errors) as processes:
            while newest_step(out) <= begun:
                assert all(process.is_alive() for process in processes)
                time.sleep(0.002)
            time.sleep(draw.uniform(0, 0.1))
            for victim in victims:
                processes[victim].kill()
            finish(processes, seconds=30)
            assert not any(process.is_alive() for process in processes), "the others must not hang"
    if len(victims) < ranks and newest_step(out) < STEPS:
        assert "Another process of this training has ended" in read_errors(errors)
    run_ranks(ranks, run, errors=errors)
    run_ranks(ranks, run_tiny, tmp_path / "whole", errors=errors)
    assert_same(saved_tensors(out), saved_tensors(tmp_path / "whole"))


@pytest.mark.parametrize(("ranks", "number"), [(1, signal.SIGINT), (2, signal.SIGTERM), (2, signal.SIGUSR1)])
def test_a_signal_to_one_process_lets_all_save_and_exit(ranks, number, tmp_path):
    out, errors = tmp_path / "run", tmp_path / "errors"
    slow = partial(run_tiny, batches=TinyBatches(seconds=0.02), log_every=1, num_workers=2 - ranks)
    with started(ranks, slow, out, errors=errors) as processes:
        while not (out / "log.jsonl").exists() or not (out / "log.jsonl").stat().st_size:
            assert all(process.is_alive() for process in processes), read_errors(errors)
            time.sleep(0.002)
        os.kill(processes[-1].pid or 0, number)
        assert finish(processes) == [128 + number] * ranks, read_errors(errors)
    step = newest_step(out)
    assert 0 < step < STEPS
    assert read_errors(errors).count(f"Stopped and saved after step {step}; the same command") == ranks
    run_ranks(ranks, run_tiny, out, errors=errors)
    run_ranks(ranks, run_tiny, tmp_path / "whole", errors=errors)
    assert_same(saved_tensors(out), saved_tensors(tmp_path / "whole"))


def evaluate_slowly(begun: Path, model: nn.Module, step: int, leave: ShouldStop) -> dict[str, float] | None:
    for _ in range(500):
        begun.touch()
        if leave():
            return None
        time.sleep(0.01)
    return {"psnr": 20.0}


def test_a_signal_ends_an_evaluation_which_the_next_run_makes_up_for(tmp_path):
    out, errors, begun = tmp_path / "run", tmp_path / "errors", tmp_path / "begun"
    run = partial(run_tiny, steps=4, eval_every=2, evaluate=partial(evaluate_slowly, begun))
    with started(2, run, out, errors=errors) as processes:
        while not begun.exists():
            assert all(process.is_alive() for process in processes), read_errors(errors)
            time.sleep(0.002)
        os.kill(processes[1].pid or 0, signal.SIGTERM)
        assert finish(processes) == [143] * 2
    assert newest_step(out) == 2
    seen: list[int] = []

    def evaluate(model: nn.Module, step: int, leave: ShouldStop) -> dict[str, float]:
        seen.append(step)
        return {"psnr": 20.0}

    run_tiny(out, steps=4, eval_every=2, evaluate=evaluate)
    assert seen == [2, 4]


def test_a_nonfinite_loss_in_one_process_stops_all_before_the_update(tmp_path):
    out, errors, broken = tmp_path / "run", tmp_path / "errors", TinyBatches(broken=[(5, 1)])
    with started(2, partial(run_tiny, batches=broken), out, errors=errors) as processes:
        assert finish(processes) == [1, 1]
    assert read_errors(errors).count("Training diverged: the loss or gradient of update 6 is not finite") == 2
    assert newest_step(out) == 5, "what was good is kept"
    kept = torch.load(out / "rejected" / "step-00000006-1.pt", weights_only=True)
    assert kept["step"] == 5
    assert kept["batches"][0]["clip"].isnan().all()
    run_ranks(2, partial(run_tiny, on_nonfinite="skip", batches=broken), out, errors=errors)
    assert newest_step(out) == STEPS
    assert all(value.isfinite().all() for value in saved_tensors(out).values())


def save_on_a_full_disk(out: Path) -> None:
    """The second process can't write more than 100 bytes to a file."""
    import resource  # Unix

    if os.environ["RANK"] == "1":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    run_tiny(out, steps=8, save_every_minutes=0.0, fsdp=True)


def test_a_disk_that_is_full_for_one_process_stops_all_and_harms_nothing(tmp_path):
    out, errors = tmp_path / "run", tmp_path / "errors"
    run = partial(run_tiny, steps=8, fsdp=True, batches=TinyBatches(stop_after=3))
    with started(2, run, out, errors=errors) as processes:
        assert finish(processes) == [143, 143]
    before = saved_tensors(out)
    with started(2, save_on_a_full_disk, out, errors=errors) as processes:
        assert finish(processes) == [1, 1]
    assert "could not be written (File too large)" in read_errors(errors)
    assert newest_step(out) == 3
    assert_same(before, saved_tensors(out))
    run_ranks(2, partial(run_tiny, steps=8, fsdp=True), out, errors=errors)
    assert newest_step(out) == 8


def loss_by_fsdp(rule: str, out: Path) -> None:
    """The loss of a sharded model, a gradient, and the precision of weights in the forward pass."""
    model, average, seen = tiny_regen(rule), tiny_regen(rule), set[tuple[str, torch.dtype]]()
    with init_distributed("cpu") as context:
        loss_function, _ = parallelize(model, average, context, True, torch.bfloat16)
        for name in ("siren.out", "proj"):
            part = model.conditioner.get_submodule(name)
            part.register_forward_pre_hook(lambda part, _, name=name: seen.add((name, part.weight.dtype)))
        loss = regen_loss(loss_function)
        loss.backward()
        gradient = full_tensor(model.conditioner.siren.out.weight.grad)
        if context.is_main:
            torch.save((loss.detach(), gradient, seen), out)


def tiny_regen(rule: str) -> AutoencoderRegen:
    torch.manual_seed(0)
    model = AutoencoderRegen(
        latent_channels=4, encoder_widths=(8,) * 4, encoder_blocks=1, encoder_patch_size=4, width=24, depth=1,
        heads=3, siren_width=16, first_frame=rule,
    )  # fmt: skip
    return awake(model)


def regen_loss(loss_function: LossFunction) -> torch.Tensor:
    clip = torch.rand(1, 3, 5, 16, 16, generator=generator_for(0)) * 2 - 1
    batch = {"clip": clip, "target": clip, "times": torch.linspace(0, 1, 5)}
    with torch.autocast("cpu", torch.bfloat16):
        return loss_function(batch, [generator_for(1)])[0]


@pytest.mark.parametrize("rule", ["content", "siren"])
def test_modules_that_stay_in_fp32_do_so_when_sharded(rule: str, tmp_path: Path) -> None:
    run_ranks(2, loss_by_fsdp, rule, tmp_path / "found.pt", errors=tmp_path / "errors")
    sharded, gradient, seen = torch.load(tmp_path / "found.pt", weights_only=False)
    assert seen == {("siren.out", torch.float32), ("proj", torch.bfloat16)}
    model = tiny_regen(rule)
    loss = regen_loss(model.loss)
    loss.backward()
    # All other weights are rounded to bf16 once, where autocast rounds some of them at each use.
    torch.testing.assert_close(sharded, loss.detach(), rtol=2e-2, atol=0)
    own = model.conditioner.siren.out.weight.grad
    assert (gradient - own).norm() < 0.05 * own.norm()


def write_statistics(path: Path, fsdp: bool) -> None:
    """Statistics and preview of 9 clips, 4 in the first process and 5 in the second, and of an image."""
    torch.manual_seed(0)
    model = AutoencoderRegen(
        encoder_widths=(32, 32, 32, 32), encoder_blocks=1, encoder_patch_size=4, width=32, depth=1, heads=1,
        siren_width=8,
    )  # fmt: skip
    with init_distributed("cpu") as context:
        if fsdp:
            shard(model, context, torch.float32)
        batches = []
        for count, frames in ((9, 5), (2, 1)):
            clip = torch.rand(count, 3, frames, 16, 16, generator=generator_for(1, count)) * 2 - 1
            rows = slice(count * context.rank // context.size, count * (context.rank + 1) // context.size)
            batches.append({"clip": clip[rows], "batch_size": torch.tensor(count)})
        found = measure_latent_statistics(model, batches, 100, context, torch.float32)
        chunks = small_batches(batches[:1], 9, context)
        rows = fit_rgb_factors(model, chunks, context.average_tensors)["start"]
        factors = torch.tensor([[float(value) for value in row.split()] for row in rows])
        weights = full_state_dict(model, context)
        assert bool(weights) == context.is_main
        if context.is_main:
            torch.save({"statistics": found, "factors": factors, "weights": weights}, path)


@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp"])
def test_statistics_and_weights_of_two_processes_are_those_of_one(fsdp: bool, tmp_path: Path) -> None:
    write_statistics(tmp_path / "one.pt", fsdp=False)
    run_ranks(2, write_statistics, tmp_path / "two.pt", fsdp, errors=tmp_path / "errors")
    one, two = (torch.load(tmp_path / name) for name in ("one.pt", "two.pt"))
    torch.testing.assert_close(two["statistics"], one["statistics"], rtol=1e-5, atol=1e-6)  # order of sums
    torch.testing.assert_close(two["factors"], one["factors"], rtol=1e-2, atol=1e-3)  # and rounding
    assert_same(two["weights"], one["weights"])
