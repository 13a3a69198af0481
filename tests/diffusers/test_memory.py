"""Offloading and casting by the hooks of accelerate and diffusers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from accelerate.hooks import remove_hook_from_module
from diffusers import ModelMixin
from tiny_generator import KINDS, awake, condition_of, latents_of
from tiny_media import EMBEDDERS
from torch import Tensor

from regen.embedders.linear import AutoencoderLinear
from regen.generate.generator import LatentGenerator
from regen.latents import Latents

CPU = torch.device("cpu")
MODELS: dict[str, Callable[[], ModelMixin]] = {
    **EMBEDDERS,
    "linear": lambda: AutoencoderLinear(latent_channels=4),
    **{f"generator of {kind}": lambda kind=kind: awake(kind) for kind in KINDS},
}
PER_MODEL = pytest.mark.parametrize("name", MODELS)


@torch.no_grad()
def run(model: ModelMixin, name: str) -> Tensor:
    """All calls of a model: two steps from noise, an image and a clip; or the velocity of given latents."""
    torch.manual_seed(3)
    if isinstance(model, LatentGenerator):
        kind = name.removeprefix("generator of ")
        latents = latents_of(kind)
        given = torch.arange(latents.shape[2]) < torch.tensor([[0], [1]])
        velocity = model.velocity(latents, torch.tensor([0.3, 0.7]), condition_of(kind), given)
        return torch.cat([part.float().flatten() for part in velocity.parts])
    clip = torch.rand(1, 3, model.chunk_frames + 1, 32, 48) * 2 - 1
    image = model(clip[:, :, :1], generator=torch.Generator().manual_seed(0), steps=2).sample
    return torch.cat([image.flatten(), model(clip).sample.flatten()])


@PER_MODEL
def test_sequential_offloading_leaves_weights_on_meta_and_results_as_they_are(name: str) -> None:
    model = MODELS[name]()
    expected = run(model, name)
    cpu_offload(model, CPU)
    assert any(parameter.device.type == "meta" for parameter in model.parameters())
    assert model.device == CPU and (name.startswith("gen") or model.latents_mean.device == CPU)
    torch.testing.assert_close(run(model, name), expected)
    torch.testing.assert_close(run(model, name), expected)
    remove_hook_from_module(model, recurse=True)
    torch.testing.assert_close(run(model, name), expected)


@PER_MODEL
def test_offloading_of_a_whole_model_moves_it_before_its_device_is_read(name: str) -> None:
    model = MODELS[name]()
    expected = run(model, name)
    model, hook = cpu_offload_with_hook(model, CPU)
    torch.testing.assert_close(run(model, name), expected)
    hook.offload()
    torch.testing.assert_close(run(model, name), expected)


@PER_MODEL
@pytest.mark.parametrize(
    ("storage", "compute", "deviation"),
    [
        (torch.float8_e4m3fn, torch.bfloat16, 0.35),
        (torch.float8_e4m3fn, torch.float32, 0.35),
        (torch.bfloat16, torch.float32, 0.02),
        (torch.bfloat16, None, 0.02),
    ],
    ids=str,
)
def test_layerwise_casting(
    name: str, storage: torch.dtype, compute: torch.dtype | None, deviation: float
) -> None:
    model = MODELS[name]()
    expected = run(model, name)
    before = sum(parameter.nbytes for parameter in model.parameters())
    model.enable_layerwise_casting(storage_dtype=storage, compute_dtype=compute)
    assert model.dtype == (compute or torch.float32)
    assert storage in {parameter.dtype for parameter in model.parameters()}
    assert sum(parameter.nbytes for parameter in model.parameters()) < before
    for _ in range(2):
        assert (run(model, name) - expected).abs().mean() < deviation * expected.abs().mean()


@pytest.mark.parametrize("name", EMBEDDERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_finite_where_activations_leave_the_range_of_fp16(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Trained pyramids have residual streams up to 1e12; here weights of the convolutional networks grow."""
    model = MODELS[name]()
    if name != "onedva":  # a transformer, whose values stay below 1000
        networks = [model.encoder, *([model.decoder] if name == "magvit2" else [])]
        for network in networks:
            for first in (network.conv_in, network.mid[0].conv1, network.mid[0].conv2):
                first.conv.weight.data *= 1e4
    model.save_pretrained(tmp_path)
    expected = run(model, name)
    half = type(model).from_pretrained(tmp_path, torch_dtype=dtype)
    found = run(half, name)
    assert bool(torch.isfinite(found).all())
    assert (found - expected).abs().mean() < (0.05 if dtype == torch.float16 else 0.4) * expected.abs().mean()


@PER_MODEL
def test_offloading_and_casting_together(name: str) -> None:
    model = MODELS[name]()
    expected = run(model, name)
    model.enable_layerwise_casting(torch.bfloat16, torch.float32)
    cpu_offload(model, CPU)
    assert (run(model, name) - expected).abs().mean() < 0.02 * expected.abs().mean()


@PER_MODEL
def test_the_weights_of_a_model_can_be_on_disk(name: str, tmp_path: Path) -> None:
    from accelerate import disk_offload

    model = MODELS[name]()
    expected = run(model, name)
    disk_offload(model, tmp_path, CPU, offload_buffers=True)
    torch.testing.assert_close(run(model, name), expected)


def test_latents_of_offloaded_models_can_be_decoded_by_the_codec() -> None:
    from regen.codec.sessions import decode_chunks, encode_frames

    model = EMBEDDERS["regen"]()
    frames = torch.randint(0, 256, (7, 20, 30, 3), dtype=torch.uint8)
    expected = list(decode_chunks(model, encode_frames(model, frames), height=20, width=30))
    cpu_offload(model, CPU)
    found = list(decode_chunks(model, encode_frames(model, frames), height=20, width=30))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert isinstance(Latents.of(model.encode(torch.zeros(1, 3, 5, 16, 16)).latent_dist.mode()), Latents)
