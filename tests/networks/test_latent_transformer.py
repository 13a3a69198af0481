"""LatentTransformer: masks, text, positions."""

import pytest
import torch
from einops import rearrange
from tiny_networks import awake
from torch import Tensor

from regen.networks.dit import Block
from regen.networks.latent_transformer import FactorisedBlock, FactorisedTransformer, LatentTransformer

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


GRID = (3, 2, 5)


def factorised(depth: int = 4, timestep: str = "adaln_zero") -> FactorisedTransformer:
    return awake(FactorisedTransformer(WIDTH, depth, HEADS, timestep), std=0.3)


@pytest.mark.parametrize("temporal", [False, True])
def test_a_factorised_block_is_a_plain_one_for_each_frame_or_position(temporal):
    """With the same weights: a spatial block for each frame alone, a temporal one for each position alone."""
    block = awake(FactorisedBlock(WIDTH, HEADS, "adaln_zero", temporal), std=0.3)
    plain = Block(WIDTH, HEADS, "adaln_zero")
    plain.load_state_dict(block.state_dict())
    f, y, x = GRID
    tokens, cond = torch.randn(2, f * y * x, WIDTH), torch.randn(2, WIDTH)
    found = rearrange(block(tokens, cond, None, f), "b (f s) d -> b f s d", f=f)
    each = rearrange(tokens, "b (f s) d -> b f s d", f=f)
    for number in range(y * x if temporal else f):
        index = (slice(None), slice(None), number) if temporal else (slice(None), number)
        torch.testing.assert_close(found[index], plain(each[index], cond, None), atol=1e-5, rtol=1e-4)


def test_spatial_and_temporal_blocks_alternate():
    """What a token changes after each number of blocks: its frame, then everything."""
    blocks = factorised().blocks
    assert [block.sequences for block in blocks] == ["(b f) s d", "(b s) f d"] * 2
    network, cond = factorised(2), torch.randn(1, WIDTH)
    f, s = GRID[0], GRID[1] * GRID[2]
    tokens = torch.randn(1, f * s, WIDTH)
    changed = tokens.clone()
    changed[0, s + 3] = torch.randn(WIDTH)  # in the second frame

    def differs(depth: int) -> Tensor:
        out = []
        for x in (tokens, changed):
            for block in network.blocks[:depth]:
                x = block(x, cond, None, f)
            out.append(rearrange(x[0], "(f s) d -> f s d", f=f))
        return ((out[0] - out[1]).abs() > 1e-6).any(2)

    spatial = torch.zeros(f, s, dtype=torch.bool)
    spatial[1] = True
    assert torch.equal(differs(1), spatial)
    assert differs(2).all()


@pytest.mark.parametrize("timestep", ["adaln_single", "adaln_zero"])
def test_factorised_attention_has_positions_and_no_parameters_for_them(timestep):
    """Rows, columns and frames differ; any grid works with the same weights."""
    network, cond = factorised(timestep=timestep), torch.randn(1, WIDTH)
    names = {name.split(".")[0] for name, _ in network.named_parameters()}
    assert names == {"blocks", "final"} | ({"shared"} if timestep == "adaln_single" else set())
    out = network(torch.ones(1, 30, WIDTH), GRID, cond)[0].reshape(*GRID, WIDTH)
    for axis in range(3):
        first, second = out.select(axis, 0), out.select(axis, 1)
        assert not torch.isclose(first, second, atol=1e-3).all(-1).any(), axis
    assert network(torch.ones(1, 7, WIDTH), (1, 1, 7), cond).isfinite().all()
    assert {p.ndim for p in network.muon_parameters()} == {2}
