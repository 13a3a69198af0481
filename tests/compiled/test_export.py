"""torch.export of decoders with dynamic sizes."""

from collections.abc import Callable

import pytest
import torch
from tiny_media import EMBEDDERS
from torch import Tensor, nn

from regen.embedders.linear import AutoencoderLinear
from regen.pretrained.models import Autoencoder

pytestmark = pytest.mark.compiled
MODELS = EMBEDDERS | {"linear": lambda: AutoencoderLinear(latent_channels=4)}


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(2)) * 2 - 1


class Exported(nn.Module):
    """A function of tensors as a module, as torch.export takes it."""

    def __init__(self, model: Autoencoder, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.function(*tensors)


def step_inputs(name: str, y: int, x: int, frames: int) -> tuple[Tensor, ...]:
    """Arguments of `denoise_step` of one step from zero noise."""
    t, end = torch.ones(1), torch.zeros(1)
    if name == "regen":
        times = torch.linspace(0, 1, frames)
        return torch.zeros(2, 3, frames, 8 * y, 8 * x), t, end, noise(2, 4, 2, y, x), times
    grid, sequence = noise(2, 4, 2, y, x), noise(2, 4, frames)
    return torch.zeros(2, 3, 8, 16 * y, 16 * x), t, end, grid, sequence


@pytest.mark.parametrize("name", ["regen", "onedva"])
@torch.no_grad()
def test_a_denoising_step_is_pure_and_exported_with_dynamic_sizes(name: str) -> None:
    model = MODELS[name]()
    module, auto = Exported(model, model.denoise_step), torch.export.Dim.AUTO
    sizes = {"regen": ({2, 3, 4}, (), (), {3, 4}, {0}), "onedva": ({3, 4}, (), (), {3, 4}, {2})}[name]
    shapes = tuple(dict.fromkeys(axes, auto) or None for axes in sizes)
    program = torch.export.export(module, step_inputs(name, 2, 3, 5), dynamic_shapes=(shapes,))
    for size in ((2, 3, 5), (3, 2, 4), (2, 4, 3)):
        inputs = step_inputs(name, *size)
        torch.testing.assert_close(program.module()(*inputs), module(*inputs), atol=1e-5, rtol=1e-4)
    if name == "regen":
        inputs = step_inputs(name, 2, 3, 5)
        torch.testing.assert_close(module(*inputs), model.decode(inputs[3], inputs[4]).sample)


@pytest.mark.parametrize("name", ["magvit2", "linear"])
@torch.no_grad()
def test_a_direct_decoder_is_exported_with_dynamic_sizes(name: str) -> None:
    model, auto = MODELS[name](), torch.export.Dim.AUTO
    module = Exported(model, lambda latents: model.decode(latents, return_dict=False)[0])
    n = model.latent_frames
    program = torch.export.export(module, (noise(2, 4, n, 2, 3),), dynamic_shapes=(({3: auto, 4: auto},),))
    torch.testing.assert_close(program.module()(noise(2, 4, n, 5, 2)), module(noise(2, 4, n, 5, 2)))
