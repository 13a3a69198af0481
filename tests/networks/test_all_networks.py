"""Properties of every network: gradients, checkpointing, parameters for Muon, zero at initialisation."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from tiny_networks import shaken
from torch import Tensor, nn

from regen.layers.attention import Attention
from regen.networks.conv_decoder import CausalDecoder
from regen.networks.dit import DiT, Feedforward, Patches, matrix_parameters
from regen.networks.encoder import CausalEncoder, stride_plan
from regen.networks.hybrid_decoder import HybridDecoder
from regen.networks.latent_transformer import LatentTransformer
from regen.networks.query_encoder import QueryEncoder

Case = tuple[nn.Module, Callable[[], list[Tensor]]]  # a tiny network, and its outputs at fixed inputs
PATCHES = Patches(2, 4)


def dit(timestep: str, window: int | None, context: bool) -> Case:
    network = DiT(24, 2, 3, 8, timestep, window)
    inputs = torch.randn(2, 3, 3, 16, 32), torch.randn(2, 3, 2, 4, 24), torch.rand(2)
    tokens = torch.randn(2, 2, 2, 4, 24) if context else None
    return network, lambda: [network(*inputs, tokens)]


def encoder(linear_skip: bool) -> Case:
    strides = stride_plan(4, 1)
    network, video = CausalEncoder(3, (8,) * 4, strides, 1, 1, linear_skip), torch.randn(1, 3, 5, 16, 16)
    return network, lambda: [network(video)]


def decoder(late: bool) -> Case:
    strides = stride_plan(4, 4)
    network, latents = CausalDecoder(3, (8,) * 4, strides, 1, 4, late, True), torch.randn(1, 3, 2, 2, 2)
    return network, lambda: [network(latents)]


def query_encoder(query_positions: str, moments: int, linear_skip: bool) -> Case:
    network = QueryEncoder(3, moments, PATCHES, 24, 2, 2, 12, query_positions, linear_skip)
    clip = torch.randn(2, 3, 4, 8, 12)
    return network, lambda: list(network(clip))


def hybrid_decoder(timestep: str, query_positions: str, long_skip: bool, linear_skip: bool) -> Case:
    network = HybridDecoder(3, PATCHES, 24, 3, 2, 2, timestep, 12, query_positions, long_skip, linear_skip)
    noisy, structural = torch.randn(2, 3, 4, 8, 12), torch.randn(2, 3, 2, 2, 3)
    mask = torch.arange(12) < torch.tensor([[5], [12]])
    inputs = noisy, structural, torch.randn(2, 3, 12), mask, torch.rand(2)
    return network, lambda: [network.to_pixels(network(*inputs)[0], structural)]


def latent_transformer(num_joint_layers: int, timestep: str) -> Case:
    network = LatentTransformer(24, 2, 2, num_joint_layers, timestep)
    masks = [torch.arange(n) < torch.tensor([[n], [n - 2]]) for n in (6, 4)]
    inputs = torch.randn(2, 6, 24), 3 * torch.rand(6, 3), torch.randn(2, 24), masks[0], torch.randn(2, 4, 24)
    return network, lambda: [network(*inputs, masks[1])]


CASES: dict[str, Callable[[], Case]] = {
    **{f"dit {t}": partial(dit, t, None, False) for t in ("add", "adaln_single", "adaln_zero")},
    "dit windows": partial(dit, "adaln_zero", 2, False),
    "dit context": partial(dit, "adaln_zero", None, True),
    "encoder": partial(encoder, False),
    "encoder linear skip": partial(encoder, True),
    "decoder": partial(decoder, False),
    "decoder late upsampling": partial(decoder, True),
    "query encoder": partial(query_encoder, "none", 3, False),
    "query encoder rotary": partial(query_encoder, "rotary", 3, False),
    "query encoder anchored": partial(query_encoder, "anchored", 6, True),
    "hybrid add": partial(hybrid_decoder, "add", "none", False, False),
    "hybrid adaln_single": partial(hybrid_decoder, "adaln_single", "anchored", True, False),
    "hybrid linear skip": partial(hybrid_decoder, "adaln_zero", "anchored", True, True),
    **{f"latents {n} joint": partial(latent_transformer, n, "adaln_zero") for n in (0, 1, 2)},
    "latents adaln_single": partial(latent_transformer, 2, "adaln_single"),
}
TRANSFORMERS = [name for name in CASES if not name.startswith(("encoder", "decoder"))]


def woken(name: str) -> Case:
    """With noise on all weights, because zero-initialised ones hide others."""
    network, call = CASES[name]()
    return shaken(network), call


def gradients(network: nn.Module, outputs: list[Tensor]) -> Iterator[tuple[str, Tensor | None]]:
    network.zero_grad()
    sum(output.square().mean() for output in outputs).backward()
    return ((name, parameter.grad) for name, parameter in network.named_parameters())


@pytest.mark.parametrize("name", CASES)
def test_gradient_reaches_every_parameter(name):
    network, call = woken(name)
    assert not [n for n, gradient in gradients(network, call()) if gradient is None or not gradient.any()]


@pytest.mark.parametrize("name", CASES)
def test_gradient_checkpointing_gives_the_same_gradients(name):
    network, call = woken(name)
    network.train()
    plain = {n: gradient.clone() for n, gradient in gradients(network, call())}
    network.gradient_checkpointing = True
    torch.testing.assert_close(dict(gradients(network, call())), plain)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_muon_gets_the_matrices_of_the_blocks(name):
    """Those of attention and feed-forward, and the keys of text where nothing else of it is needed."""
    network, _ = CASES[name]()
    parts = [part for part in network.modules() if isinstance(part, Attention | Feedforward)]
    expected = {id(p) for part in parts for p in part.parameters() if p.ndim == 2}
    expected |= {id(p) for n, p in network.named_parameters() if n.endswith(".kv.weight")}
    own = hasattr(network, "muon_parameters")
    found = [id(p) for p in (network.muon_parameters() if own else matrix_parameters(network.blocks))]
    assert len(found) == len({*found}) and {*found} == expected


@pytest.mark.parametrize("name", [n for n in CASES if n.startswith(("dit", "hybrid a"))])
def test_the_output_is_zero_at_initialisation(name):
    _, call = CASES[name]()
    assert not call()[0].any()
