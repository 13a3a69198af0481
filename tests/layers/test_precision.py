"""Modules that stay in fp32 do so however the model around them is cast or loaded."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_media import EMBEDDERS
from torch import nn

from regen.layers.precision import Fp32Module
from regen.pretrained.models import Autoencoder, load

CPU = torch.device("cpu")


def load_with_torch_dtype(model: Autoencoder, folder: Path) -> Autoencoder:
    return type(model).from_pretrained(folder, torch_dtype=torch.bfloat16)


WAYS: dict[str, Callable[[Autoencoder, Path], nn.Module]] = {
    "to": lambda model, folder: model.to(torch.bfloat16),
    "to device and dtype": lambda model, folder: model.to("cpu", torch.float16),
    "bfloat16": lambda model, folder: model.bfloat16(),
    "half": lambda model, folder: model.half(),
    "double": lambda model, folder: model.double(),
    "inside another": lambda model, folder: nn.ModuleList([model]).bfloat16()[0],
    "from_pretrained": load_with_torch_dtype,
    "load": lambda model, folder: load(str(folder), CPU, torch.bfloat16),
    "stored in bf16": lambda model, folder: load(str(save_bf16(model, folder)), CPU, torch.bfloat16),
    "back": lambda model, folder: model.bfloat16().float(),
}


def save_bf16(model: Autoencoder, folder: Path) -> Path:
    model.bfloat16().save_pretrained(folder / "bf16")
    return folder / "bf16"


def islands(model: nn.Module) -> dict[str, Fp32Module]:
    return {name: part for name, part in model.named_modules() if isinstance(part, Fp32Module)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", EMBEDDERS)
def test_weights_of_fp32_modules_keep_their_bits(name: str, way: str, tmp_path: Path) -> None:
    model = EMBEDDERS[name]()
    model.save_pretrained(tmp_path)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    parts = islands(model)
    assert ("conditioner.siren" in parts) == (name == "regen")
    others = {key.rpartition(".")[2] for key in parts}
    assert others == set(model._keep_in_fp32_modules or ()), "diffusers' loading needs their names"
    cast = WAYS[way](model, tmp_path)
    for key, value in cast.state_dict().items():
        if any(key.startswith(f"{part}.") for part in parts):
            assert value.dtype == torch.float32 and torch.equal(value, before[key]), key
        else:
            assert (value.dtype == torch.float32) == (way == "back"), key


def test_a_bf16_model_has_the_motion_of_the_fp32_model() -> None:
    """To the bit, under autocast too: at ω = 30 a phase rounded to bf16 would be off by up to 0.1."""
    model = EMBEDDERS["regen"]()
    siren, motion = model.conditioner.siren, torch.randn(1, 2, 2, 4).bfloat16()
    times = torch.tensor([0.5, 0.501])
    exact = siren(times, motion.float())
    model.bfloat16()
    assert exact.dtype == torch.float32 and not torch.equal(exact[:, 0], exact[:, 1])
    assert torch.equal(siren(times, motion), exact)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(siren(times, motion), exact)
