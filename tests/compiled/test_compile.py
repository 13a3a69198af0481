"""Encoder and decoder compile into one graph each; run apart from the shape checks, which break graphs."""

from collections.abc import Callable, Iterable
from dataclasses import asdict

import pytest
import torch
from tiny_networks import awake
from tiny_run import run_tiny, saved_tensors

from regen.embedders.regen import AutoencoderRegen
from regen.generate.generator import LatentGenerator
from regen.generate.inputs import Condition
from regen.latents import Latents
from regen.layers.attention import Attention, Window
from regen.networks.conditioning import LatentConditioner
from regen.networks.dit import DiT, Patches
from regen.networks.encoder import CausalEncoder, stride_plan
from regen.networks.hybrid_decoder import HybridDecoder
from regen.networks.query_encoder import QueryEncoder, QueryPositions
from regen.recipes import RECIPES
from regen.train.distributed import compile_blocks

pytestmark = pytest.mark.compiled


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    """What other tests compiled does not count towards the limit of one function's compilations."""
    torch._dynamo.reset()


def check(function: Callable, inputs: Iterable[tuple], **options: object) -> None:
    """Compiled in one graph, it has the same outputs at all of these inputs."""
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", **options)
    for arguments in inputs:
        torch.testing.assert_close(compiled(*arguments), function(*arguments), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("ratio", [4, 32])
def test_encoder_compiles(ratio):
    strides = stride_plan(ratio, 4)
    encoder = CausalEncoder(4, (8,) * len(strides), strides, 1, 4, linear_skip=True).eval()
    check(encoder, [(torch.randn(1, 3, ratio + 1, 16, 16),)])


def woken(window: int | None = None) -> DiT:
    return awake(DiT(24, depth=2, heads=3, patch_size=8, timestep="adaln_zero", window=window))


def test_conditioner_and_decoder_compile_and_take_any_size():
    conditioner, decoder = LatentConditioner(4, 24, siren_width=16, frequency=4.0), woken()

    def decode(
        noisy: torch.Tensor, latents: torch.Tensor, times: torch.Tensor, t: torch.Tensor
    ) -> torch.Tensor:
        return decoder(noisy, conditioner(latents, times), t)

    def inputs(frames: int, y: int, x: int) -> tuple[torch.Tensor, ...]:
        noisy, latents = torch.randn(1, 3, frames, 8 * y, 8 * x), torch.randn(1, 4, 2, y, x)
        return noisy, latents, torch.linspace(0, 1, frames), torch.rand(1)

    check(decode, [inputs(5, 2, 2), inputs(6, 3, 4)], dynamic=True)


@torch.no_grad()
def test_decoder_with_windows_compiles():
    """Windows of 3 at 4 x 7 places: 1 x 2 in the first block, 2 x 3 in the second."""
    inputs = torch.randn(1, 3, 2, 32, 56), torch.randn(1, 2, 4, 7, 24), torch.rand(1)
    check(woken(window=3), [inputs], dynamic=False)


@torch.no_grad()
def test_attention_within_windows_compiles_for_sizes_that_change():
    layer, window = Attention(8, heads=2), Window(3, 1)

    def attention(x: torch.Tensor) -> torch.Tensor:
        b, t, y, x_, d = x.shape
        return layer(x.reshape(b, t * y * x_, d), (t, y, x_), window)

    check(attention, [(torch.randn(1, *grid, 8),) for grid in ((2, 4, 4), (3, 6, 2))], dynamic=True)


PATCHES, GRIDS = Patches(2, 4), ((3, 2, 2), (1, 3, 4))


@torch.no_grad()
@pytest.mark.parametrize(
    ("positions", "linear_skip"), [("none", False), ("rotary", False), ("anchored", True)]
)
def test_query_encoder_compiles_and_takes_any_size(positions: QueryPositions, linear_skip: bool):
    encoder = awake(QueryEncoder(4, 8, PATCHES, 24, 1, 2, 12, positions, linear_skip))
    check(encoder, [(torch.randn(2, 3, 2 * n, 4 * y, 4 * x),) for n, y, x in GRIDS])


@torch.no_grad()
@pytest.mark.parametrize("positions", ["none", "anchored"])
def test_hybrid_decoder_compiles_and_takes_any_size_and_length(positions: QueryPositions):
    """As `regen --compile` does it; of two clips in a batch the second keeps half as many 1D latents."""
    decoder = awake(HybridDecoder(4, PATCHES, 24, 1, 2, 2, "adaln_zero", 12, positions, True, True))
    inputs = []
    for (n, y, x), longest in zip(GRIDS * 2, (5, 12, 0, 1), strict=True):
        structural, sequence = torch.randn(2, 4, n, y, x), torch.randn(2, 4, longest)
        keep = torch.arange(longest) < torch.tensor([[longest], [longest // 2]])
        inputs.append((torch.randn(2, 3, 2 * n, 4 * y, 4 * x), structural, sequence, keep, torch.rand(2)))
    with torch._dynamo.config.patch(recompile_limit=64):
        check(decoder, inputs)


@torch.no_grad()
@pytest.mark.parametrize("num_joint_layers", [1, 2])
def test_generator_of_text_compiles_and_takes_any_size(num_joint_layers: int):
    source = {"channels": 4, "chunk_latents": 2}
    model = awake(LatentGenerator(24, 2, 2, num_joint_layers, latent_spec=source, text_width=10)).eval()
    compiled = torch.compile(model.velocity, fullgraph=True, backend="aot_eager")
    for n, y, x in ((2, 2, 4), (4, 6, 8)):
        keep = torch.arange(5) < torch.tensor([[5], [2]])
        condition = Condition(text=torch.randn(2, 5, 10), text_mask=keep)
        noisy = Latents.of(torch.randn(2, 4, n, y, x))
        arguments = noisy, torch.rand(1), condition, torch.rand(2, n) < 0.5
        found, expected = compiled(*arguments), model.velocity(*arguments)
        torch.testing.assert_close(found.grid, expected.grid, atol=1e-4, rtol=1e-3)


def test_a_training_compiles_its_blocks_and_learns_the_same(tmp_path):
    """Sums in another order: after 6 updates the weights differ by less than 1e-4."""
    run_tiny(tmp_path / "plain", steps=6)
    run_tiny(tmp_path / "compiled", steps=6, compile=True)
    plain, compiled = saved_tensors(tmp_path / "plain"), saved_tensors(tmp_path / "compiled")
    assert plain.keys() == compiled.keys()
    for name in plain:
        torch.testing.assert_close(compiled[name], plain[name], atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_the_blocks_of_regen_compile_for_training_with_checkpointed_activations():
    torch.manual_seed(0)
    model = awake(AutoencoderRegen(**asdict(RECIPES["toy"].model)).train())
    model.enable_gradient_checkpointing()
    clip = torch.rand(2, 3, 5, 32, 32) * 2 - 1
    batch = {"clip": clip, "target": clip, "times": torch.linspace(0, 1, 5)}
    results = []
    for _ in range(2):
        loss, _ = model.loss(batch, [torch.Generator().manual_seed(i) for i in range(2)])
        gradients = torch.autograd.grad(
            loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True
        )
        results.append([loss, *(gradient for gradient in gradients if gradient is not None)])
        compile_blocks(model)
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain, atol=1e-4, rtol=1e-2)
