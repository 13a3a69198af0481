"""The transformer of latents: who sees whom, positions by distance alone, and gradients everywhere."""

import pytest
import torch
from torch import Tensor

from regen.layers.attention import Attention
from regen.layers.positions import compute_rope, concat_rope
from regen.networks.dit import Feedforward
from regen.networks.latent_transformer import LatentTransformer

WIDTH, HEADS = 24, 2
JOINT = [0, 1, 2]  # of two blocks: none for text alone, the first, both


def awake(num_joint_layers: int = 1, timestep: str = "adaln_zero", depth: int = 2) -> LatentTransformer:
    """A tiny network whose zero-initialised layers are filled, so that everything acts."""
    network = LatentTransformer(WIDTH, depth, HEADS, num_joint_layers, timestep)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return network


def inputs(tokens: int = 6, words: int = 4, b: int = 2) -> dict[str, Tensor]:
    return {
        "x": torch.randn(b, tokens, WIDTH),
        "positions": 3 * torch.rand(tokens, 3),
        "cond": torch.randn(b, WIDTH),
        "mask": torch.arange(tokens) < torch.tensor([[tokens], [tokens - 2]]),
        "text": torch.randn(b, words, WIDTH),
        "text_mask": torch.arange(words) < torch.tensor([[words - 1], [1]]),
    }


def without_text(arguments: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in arguments.items() if not name.startswith("text")}


@pytest.mark.parametrize("timestep", ["adaln_single", "adaln_zero"])
@pytest.mark.parametrize("num_joint_layers", JOINT)
def test_gradient_reaches_every_parameter(num_joint_layers, timestep):
    """Also where all blocks have weights of their own for text, of which nothing is asked after the last."""
    network = awake(num_joint_layers, timestep)
    network(**inputs()).square().sum().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("num_joint_layers", JOINT)
def test_tokens_that_are_left_out_are_seen_by_none(num_joint_layers):
    network, arguments = awake(num_joint_layers), inputs()
    keep, words = arguments["mask"], arguments["text_mask"]
    out = network(**arguments)
    changed = arguments | {
        "x": torch.where(keep[..., None], arguments["x"], 5.0),
        "text": torch.where(words[..., None], arguments["text"], -3.0),
    }
    torch.testing.assert_close(network(**changed)[keep], out[keep])
    everything = arguments | {"mask": torch.ones_like(keep)}
    assert not torch.allclose(network(**everything)[1, :4], out[1, :4], atol=1e-3)
    torch.testing.assert_close(network(**everything)[0], out[0])


@pytest.mark.parametrize("num_joint_layers", JOINT)
def test_text_matters_where_it_is_there(num_joint_layers):
    network, arguments = awake(num_joint_layers), inputs()
    out = network(**arguments)
    for place, acts in ((0, True), (3, False)):  # of the first sample, which has the first three words
        text = arguments["text"].clone()
        text[:, place] = torch.randn(WIDTH)
        moved = network(**arguments | {"text": text})
        assert torch.allclose(moved[0], out[0], atol=1e-5) != acts
    none = arguments | {"text_mask": torch.zeros_like(arguments["text_mask"])}
    if num_joint_layers == 0:  # the same weights with no text at all
        torch.testing.assert_close(network(**none), network(**without_text(arguments)))


def test_what_tokens_see_depends_on_distances_alone():
    network, arguments = awake(0), without_text(inputs())
    out = network(**arguments)
    shift = torch.tensor([2.0, -7.0, 31.5])
    moved = network(**arguments | {"positions": arguments["positions"] + shift})
    torch.testing.assert_close(moved, out, atol=1e-4, rtol=1e-4)
    for axis in range(3):
        stretched = arguments["positions"].clone()
        stretched[:, axis] *= 1.5
        assert not torch.allclose(network(**arguments | {"positions": stretched}), out, atol=1e-3), axis


@pytest.mark.parametrize("num_joint_layers", JOINT)
def test_positions_of_each_sample_or_of_all(num_joint_layers):
    network, arguments = awake(num_joint_layers), inputs()
    out = network(**arguments)
    each = arguments["positions"].expand(2, -1, -1)
    torch.testing.assert_close(network(**arguments | {"positions": each}), out)
    other = torch.stack([arguments["positions"], arguments["positions"].flip(0)])
    mixed = network(**arguments | {"positions": other})
    torch.testing.assert_close(mixed[0], out[0])
    torch.testing.assert_close(mixed[1], network(**arguments | {"positions": other[1]})[1])
    assert not torch.allclose(mixed[1], out[1], atol=1e-3)


def test_rotations_join_in_the_order_of_their_tokens():
    one, two = 3 * torch.rand(5, 3), torch.rand(2, 4, 3)
    both = concat_rope(compute_rope(one, 12), compute_rope(two, 12))
    wanted = compute_rope(torch.cat([one.expand(2, -1, -1), two], dim=1), 12)
    assert torch.equal(both.cos, wanted.cos) and torch.equal(both.sin, wanted.sin)


@pytest.mark.parametrize("timestep", ["adaln_single", "adaln_zero"])
@pytest.mark.parametrize("num_joint_layers", [1, 2])
def test_activation_checkpointing_gives_the_same_gradients(num_joint_layers, timestep):
    network, arguments = awake(num_joint_layers, timestep).train(), inputs()

    def gradients() -> list[Tensor]:
        network.zero_grad()
        network(**arguments).square().mean().backward()
        return [p.grad.clone() for p in network.parameters()]

    plain = gradients()
    network.gradient_checkpointing = True
    for a, b in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("num_joint_layers", JOINT)
def test_trunk_matrices_are_the_weights_of_attention_and_feedforward(num_joint_layers):
    network = awake(num_joint_layers)
    parts = [part for part in network.modules() if isinstance(part, Attention | Feedforward)]
    weights = {id(p) for part in parts for p in part.parameters() if p.ndim == 2}
    keys_of_text = {id(p) for name, p in network.named_parameters() if name.endswith(".kv.weight")}
    assert len(keys_of_text) == (num_joint_layers == 2)
    found = [id(matrix) for matrix in network.muon_parameters()]
    assert len(found) == len({*found}) and {*found} == weights | keys_of_text
    assert len(weights) == 4 * {0: 2, 1: 3, 2: 3}[num_joint_layers]
