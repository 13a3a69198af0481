"""A GPU gives what the CPU gives: frames, gradients, trainings, batches, tiles after running out of memory.

Skipped without a GPU. REGEN_TEST_DEVICE=cpu runs them on the CPU, as benchmarks/gpu.py --dry-run does.
"""

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tiny_media import EMBEDDERS, random_chunks, tiny_regen
from tiny_networks import awake, seeded_each
from tiny_run import TinyBatches, run_tiny
from torch import Tensor
from torch.utils.data import Dataset

from regen.codec.sessions import DecodeSession
from regen.console import Interrupted
from regen.data.batches import BatchKey
from regen.embedders.linear import AutoencoderLinear
from regen.latents import Latents
from regen.pretrained.models import Autoencoder
from regen.runtime import DTYPES
from regen.train.dataloader import BatchLoader

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
BUILD: dict[str, Callable[[], Autoencoder]] = EMBEDDERS | {"linear": lambda: AutoencoderLinear(4, 4).eval()}
# Relative distance to fp32 on the CPU: TF32 in convolutions; the rounding of bf16 through the layers.
TOLERANCE = {"fp32": 3e-3, "bf16": 6e-2}
PRECISIONS = pytest.mark.parametrize("precision", TOLERANCE)


@pytest.fixture
def device() -> torch.device:
    name = os.environ.get("REGEN_TEST_DEVICE", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    return torch.device(name)


def distance(a: Tensor, b: Tensor) -> float:
    """‖a - b‖ / ‖b‖ in fp32 on the CPU; not a number where `a` is not."""
    a, b = a.float().cpu(), b.float().cpu()
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", BUILD)
@PRECISIONS
def test_latents_and_frames_are_those_of_the_cpu(name: str, precision: str, device: torch.device) -> None:
    model = awake(BUILD[name]())
    clip = torch.rand(1, 3, model.chunk_frames, 64, 96) * 2 - 1
    other = copy.deepcopy(model).to(device, DTYPES[precision])
    with torch.inference_mode():
        latents = Latents.of(model.encode(clip).latent_dist.mode())
        found = Latents.of(other.encode(clip.to(device, other.dtype)).latent_dist.mode())
        assert distance(found.grid, latents.grid) < TOLERANCE[precision]
        frames = model.decode(latents.for_decoder(), steps=1).sample
        given = latents.to(device, other.dtype).for_decoder()
        assert distance(other.decode(given, steps=1).sample, frames) < TOLERANCE[precision]


@pytest.mark.parametrize("name", EMBEDDERS)
@PRECISIONS
def test_loss_and_gradients_are_those_of_the_cpu(name: str, precision: str, device: torch.device) -> None:
    model = awake(BUILD[name]()).train()
    other = copy.deepcopy(model).to(device)
    clip = torch.rand(2, 3, model.chunk_frames, 64, 64) * 2 - 1
    batch = {"clip": clip, "target": clip, "times": torch.linspace(0, 1, model.chunk_frames)}
    loss, _ = model.loss(batch, seeded_each(2))
    loss.backward()
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        found, _ = other.loss({key: value.to(device) for key, value in batch.items()}, seeded_each(2))
    found.backward()
    assert distance(found.detach(), loss.detach()) < TOLERANCE[precision]
    gradients = [
        torch.cat([p.grad.float().cpu().flatten() for p in one.parameters() if p.grad is not None])
        for one in (other, model)
    ]
    # What is left of sums that cancel is less exact than the sums.
    assert distance(*gradients) < 5 * TOLERANCE[precision]


@contextmanager
def too_little_memory(model: Autoencoder, device: torch.device, monkeypatch) -> Iterator[None]:
    """Room on the device for less than half of what the whole picture takes; on the CPU an error says so."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        _, total = torch.cuda.mem_get_info(device)
        needed = torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)
        allowed = torch.cuda.memory_reserved(device) + 0.45 * needed
        torch.cuda.set_per_process_memory_fraction(allowed / total, device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return
    decoder = model.decoder.forward

    def fails(noisy: Tensor, *rest: Tensor) -> Tensor:
        if noisy.shape[-1] > 256:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decoder(noisy, *rest)

    monkeypatch.setattr(model.decoder, "forward", fails)
    yield


def test_decoding_goes_on_in_tiles_when_memory_runs_out(device: torch.device, monkeypatch) -> None:
    model, side = tiny_regen(), 1024 if device.type == "cuda" else 320
    chunk = random_chunks(model, model.chunk_frames, (side // 8, side // 8))[0]
    model.to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    whole = DecodeSession(model, height=side, width=side).feed(chunk)
    with too_little_memory(model, device, monkeypatch):
        session = DecodeSession(model, height=side, width=side)
        tiled = session.feed(chunk)
    assert session.oom_retry.tile is not None and tiled.shape == whole.shape
    assert float((tiled.float() - whole.float()).abs().mean()) < 40, "blended tiles of the same picture"


class Pixels(Dataset[dict[str, Tensor]]):
    """Batches of 8-bit pixels, as training data are."""

    def __getitem__(self, key: BatchKey) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(key[0])
        pixels = torch.randint(0, 256, (2, 3, 5, 16, 16), dtype=torch.uint8, generator=generator)
        return {"clip": pixels, "target": pixels, "times": torch.linspace(0, 1, 5)}


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_reach_the_device_through_pinned_memory(workers: int, device: torch.device) -> None:
    keys = [(step, 0, 1) for step in range(4)]
    with (
        BatchLoader(Pixels(), keys, workers, device) as loader,
        BatchLoader(Pixels(), keys, 0, CPU) as plain,
    ):
        for batch, expected in zip(loader, plain, strict=True):
            assert batch["clip"].device.type == device.type and batch["clip"] is batch["target"]
            assert batch["times"].is_pinned() is (device.type == "cuda" and workers > 0)
            torch.testing.assert_close(batch["clip"].cpu(), expected["clip"])


def test_a_training_resumes_on_the_device(device: torch.device, tmp_path: Path) -> None:
    """Its state goes to the checkpoint through pinned memory and comes back."""
    whole = run_tiny(tmp_path / "whole", steps=8, device=device.type, save_every_minutes=0.0)
    with pytest.raises(Interrupted, match="after step 4"):
        run_tiny(tmp_path / "parts", steps=8, device=device.type, batches=TinyBatches(stop_after=4))
    parts = run_tiny(tmp_path / "parts", steps=8, device=device.type)
    assert next(parts.model.parameters()).device.type == device.type
    cpu = run_tiny(tmp_path / "cpu", steps=8)
    for state in (whole, parts):
        for name, value in cpu.model.state_dict().items():
            found = state.model.state_dict()[name].cpu()
            torch.testing.assert_close(found, value, atol=2e-3, rtol=2e-2)
