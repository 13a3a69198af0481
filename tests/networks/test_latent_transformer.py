"""LatentTransformer: masks, text, positions."""

import pytest
import torch
from tiny_networks import awake
from torch import Tensor

from regen.networks.latent_transformer import LatentTransformer

WIDTH, HEADS = 24, 2
JOINT = [0, 1, 2]  # of two blocks


def woken(num_joint_layers: int = 1) -> LatentTransformer:
    return awake(LatentTransformer(WIDTH, 2, HEADS, num_joint_layers, "adaln_zero"), std=0.3)


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


@pytest.mark.parametrize("num_joint_layers", JOINT)
def test_masked_tokens_have_no_influence(num_joint_layers):
    network, arguments = woken(num_joint_layers), inputs()
    mask, words = arguments["mask"], arguments["text_mask"]
    out = network(**arguments)
    changed = arguments | {
        "x": torch.where(mask[..., None], arguments["x"], 5.0),
        "text": torch.where(words[..., None], arguments["text"], -3.0),
    }
    torch.testing.assert_close(network(**changed)[mask], out[mask])
    everything = network(**arguments | {"mask": torch.ones_like(mask)})
    assert not torch.allclose(everything[1, :4], out[1, :4], atol=1e-3)
    torch.testing.assert_close(everything[0], out[0])


@pytest.mark.parametrize("num_joint_layers", JOINT)
def test_text_acts_inside_its_mask(num_joint_layers):
    network, arguments = woken(num_joint_layers), inputs()
    out = network(**arguments)
    for word, acts in ((0, True), (3, False)):  # the first sample has three words
        text = arguments["text"].clone()
        text[:, word] = torch.randn(WIDTH)
        moved = network(**arguments | {"text": text})
        assert torch.allclose(moved[0], out[0], atol=1e-5) != acts
    none = arguments | {"text_mask": torch.zeros_like(arguments["text_mask"])}
    if num_joint_layers == 0:
        torch.testing.assert_close(network(**none), network(**without_text(arguments)))


def test_attention_depends_on_distances_only():
    network, arguments = woken(0), without_text(inputs())
    out = network(**arguments)
    moved = network(**arguments | {"positions": arguments["positions"] + torch.tensor([2.0, -7.0, 31.5])})
    torch.testing.assert_close(moved, out, atol=1e-4, rtol=1e-4)
    for axis in range(3):
        stretched = arguments["positions"].clone()
        stretched[:, axis] *= 1.5
        assert not torch.allclose(network(**arguments | {"positions": stretched}), out, atol=1e-3), axis


@pytest.mark.parametrize("num_joint_layers", JOINT)
def test_positions_are_shared_or_given_for_each_sample(num_joint_layers):
    network, arguments = woken(num_joint_layers), inputs()
    out = network(**arguments)
    other = torch.stack([arguments["positions"], arguments["positions"].flip(0)])
    mixed = network(**arguments | {"positions": other})
    torch.testing.assert_close(mixed[0], out[0])
    torch.testing.assert_close(mixed[1], network(**arguments | {"positions": other[1]})[1])
    assert not torch.allclose(mixed[1], out[1], atol=1e-3)
