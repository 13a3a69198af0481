"""LoRA adapters on generators and decoders: added, trained, saved, loaded, switched."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import ModelMixin
from tiny_generator import awake, condition_of, latents_of
from tiny_media import EMBEDDERS
from torch import Tensor

from regen.generate.generator import LatentGenerator
from regen.latents import Latents

peft = pytest.importorskip("peft", reason="LoRA needs the extra `lora`")

DECODERS = {
    "regen": r"decoder\.blocks\.\d+\.(attention\.(qkv|out)|feedforward\.(expand|project))",
    "onedva": r"decoder\.blocks\.\d+\.attention\.(qkv|out)",
    "magvit2": r"decoder\.(mid|stages)\..*\.conv\d?\.conv",
}
TARGETS: dict[str, str | list[str]] = DECODERS | {"text": ["qkv", "out"], "hybrid class": ["qkv", "expand"]}
BUILD: dict[str, Callable[[], ModelMixin]] = {
    **EMBEDDERS, **{kind: lambda kind=kind: awake(kind) for kind in ("text", "hybrid class")}
}  # fmt: skip
PER_MODEL = pytest.mark.parametrize("name", TARGETS)


def make(name: str) -> ModelMixin:
    torch.manual_seed(0)
    return BUILD[name]()


def config(name: str) -> "peft.LoraConfig":
    """A new adapter changes nothing, unless its B matrices are filled as well."""
    return peft.LoraConfig(r=2, lora_alpha=4, target_modules=TARGETS[name], init_lora_weights=False)


def run(model: ModelMixin, name: str) -> tuple[Tensor, Tensor]:
    """Latents, and frames or velocities."""
    torch.manual_seed(3)
    if isinstance(model, LatentGenerator):
        latents = latents_of(name)
        velocity = model.velocity(latents, torch.tensor([0.3, 0.7]), condition_of(name))
        return latents.grid, torch.cat([part.flatten() for part in velocity.parts])
    latents = model.encode(torch.rand(1, 3, model.chunk_frames, 16, 32) * 2 - 1).latent_dist.mode()
    return Latents.of(latents).grid, model.decode(latents).sample


@PER_MODEL
def test_an_adapter_is_added_trained_saved_and_loaded(name: str, tmp_path: Path) -> None:
    model = make(name).train()
    latents, plain = run(model, name)
    model.add_adapter(config(name), "style")
    trained = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and all("lora_" in key for key in trained)
    if name in DECODERS:
        assert all(key.startswith("decoder.") for key in trained), "the latents stay as they are"
    with torch.no_grad():
        same, adapted = run(model, name)
    torch.testing.assert_close(same, latents)
    assert not torch.allclose(adapted, plain)
    run(model, name)[1].square().mean().backward()
    grads = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(grad is not None and grad.any() for grad in grads)
    model.save_lora_adapter(tmp_path, adapter_name="style")
    assert [path.name for path in tmp_path.iterdir()] == ["pytorch_lora_weights.safetensors"]

    other = make(name)
    other.load_lora_adapter(tmp_path, prefix=None, adapter_name="style", use_safetensors=True)
    assert other.active_adapters() == ["style"]
    with torch.no_grad():
        torch.testing.assert_close(run(other, name)[1], adapted, atol=1e-5, rtol=1e-4)
        other.disable_adapters()
        torch.testing.assert_close(run(other, name)[1], plain, atol=1e-5, rtol=1e-4)
        other.enable_adapters()
        other.fuse_lora()
        torch.testing.assert_close(run(other, name)[1], adapted, atol=1e-4, rtol=1e-3)
        other.unfuse_lora()
        other.delete_adapters("style")
        torch.testing.assert_close(run(other, name)[1], plain, atol=1e-4, rtol=1e-3)


@PER_MODEL
@torch.no_grad()
def test_adapters_and_layerwise_casting(name: str) -> None:
    model = make(name)
    model.add_adapter(config(name))
    expected = run(model, name)[1]
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert (run(model, name)[1] - expected).abs().mean() < 1.0 * expected.abs().mean()
