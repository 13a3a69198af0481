"""AutoencoderRegen: shapes, losses, tiles, and the ablation with latents as tokens in the context."""

from dataclasses import asdict
from itertools import combinations, islice, pairwise
from pathlib import Path

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_networks import awake, seeded, seeded_each

from regen import diffusion
from regen.embedders.linear import AutoencoderLinear
from regen.embedders.regen import AutoencoderRegen, RegenConfig
from regen.layers.positions import grid_sinusoidal_embedding, sinusoidal_embedding
from regen.media.pixels import parse_size, resize_center_crop
from regen.media.reader import VideoReader
from regen.networks.conditioning import ContextConditioner
from regen.recipes import RECIPES
from regen.tiling import Tile, Tiling, crop
from regen.train.optimizer import OptimizerConfig, build_optimizers, learning_rate_factor, set_learning_rate

EXAMPLE = Path(__file__).parents[2] / "examples" / "butterfly.mp4"

TINY = RegenConfig(
    latent_channels=4, encoder_widths=(8, 8, 8, 8), encoder_blocks=1, encoder_patch_size=4,
    width=24, depth=2, heads=3, siren_width=16,
)  # fmt: skip


def tiny(**options) -> AutoencoderRegen:
    return awake(AutoencoderRegen(**asdict(TINY) | options)).eval()


def batch(frames: int = 5, targets: int = 5) -> dict[str, torch.Tensor]:
    clip, target = torch.rand(2, 3, frames, 16, 24) * 2 - 1, torch.rand(2, 3, targets, 16, 24) * 2 - 1
    return {"clip": clip, "target": target, "times": torch.linspace(0, 1, targets)}


@pytest.mark.parametrize("ratio", [4, 8, 16, 32])
def test_shapes_and_the_content_latent_of_an_image(ratio):
    model = tiny(temporal_compression_ratio=ratio, encoder_widths=(8,) * (4 if ratio == 4 else 5))
    video = torch.rand(1, 3, ratio + 1, 16, 24) * 2 - 1
    latents = model.encode(video).latent_dist.mode()
    image = model.encode(video[:, :, :1]).latent_dist.mode()
    assert latents.shape == (1, 4, 2, 2, 3)
    assert image.shape == (1, 4, 1, 2, 3)
    torch.testing.assert_close(latents[:, :, :1], image, atol=1e-4, rtol=1e-4)  # convolutions of other sizes
    assert model.decode(latents, generator=seeded()).sample.shape == video.shape
    assert model.decode(image, generator=seeded()).sample.shape == (1, 3, 1, 16, 24)
    assert model.chunk_frames == ratio + 1 == model.temporal_compression_ratio + 1


@pytest.mark.parametrize("steps", [1, 2])
def test_one_step_needs_no_random_number(steps):
    """And the caller's generator gives one number for each clip, whatever its size."""
    model, states = tiny(), []
    for places in ((2, 2), (3, 4)):
        generator = seeded()
        model.decode(torch.randn(2, 4, 2, *places), steps=steps, generator=generator)
        states.append(generator.get_state())
    assert torch.equal(*states)
    assert torch.equal(states[0], seeded().get_state()) == (steps == 1)


def test_the_noise_of_a_frame_depends_on_its_time_alone():
    """In the first call of the decoder, frames at the same time hold the same noise, bit for bit."""
    model, calls, latents = tiny(), [], torch.randn(1, 4, 2, 2, 3)
    hook = model.decoder.register_forward_hook(lambda module, inputs, output: calls.append(inputs[0]))
    for times in ([0.0, 0.25, 0.5, 0.75, 1.0], [0.5], [1.0, -0.25, 0.5, 0.125], [0.5 + 1e-8, 0.5]):
        model.decode(latents, torch.tensor(times), 2, seeded(3))
    hook.remove()
    every, alone, some, twice = calls[::2]
    assert torch.equal(every[:, :, 2:3], alone)
    assert torch.equal(every[:, :, [4, 2]], some[:, :, [0, 2]])
    assert torch.equal(twice[:, :, 0], twice[:, :, 1])
    frames = torch.cat([every, some[:, :, [1, 3]]], dim=2)[0].unbind(1)
    assert all(
        abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.2
        for a, b in combinations(frames, 2)
    )


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda m: m.decode(torch.zeros(1, 4, 2, 2, 2), steps=0), "steps must be at least 1"),
        (lambda m: m.decode(torch.zeros(1, 4, 3, 2, 2)), "or 2 for each chunk, got 3"),
        (lambda m: m.decode(torch.zeros(1, 5, 2, 2, 2)), "4 channels, got 1 x 5 x 2"),
        (lambda m: m.decode(torch.zeros(1, 4, 1, 2, 2), torch.tensor([0.5])), "times .* must be 0"),
        (lambda m: AutoencoderRegen(temporal_compression_ratio=5), "4, 8, 16 or 32"),
        (lambda m: tiny(temporal_compression_ratio=8), "encoder_widths must have 5"),
        (lambda m: tiny(heads=5), "heads must divide"),
        (lambda m: tiny(attention_window=1), "attention_window must be >= 2"),
        (lambda m: tiny(t_min=0.0), "t_min must lie"),
        (lambda m: tiny(pure_noise_prob=1.5), "pure_noise_prob"),
        (lambda m: tiny(siren_frequency=0.0), "siren_frequency must be > 0"),
        (lambda m: tiny(prediction="epsilon").decode(torch.zeros(1, 4, 2, 2, 2)), "steps must be at least 2"),
        (lambda m: tiny(conditioning="in_context", attention_window=4), "None with in_context"),
        (lambda m: tiny(linear_skip="overlapping", prediction="velocity"), "needs prediction sample"),
        (lambda m: tiny(linear_skip="overlapping", kl_weight=0.1), "needs kl_weight 0"),
        (lambda m: tiny(detail_channels=-1), "detail_channels"),
    ],
)
def test_wrong_calls_are_rejected(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(tiny())


OPTIONS = [
    {},
    {"prediction": "velocity"},
    {"prediction": "epsilon"},
    {"first_frame": "siren"},
    {"kl_weight": 0.1},
    {"timestep_conditioning": "adaln_single"},
    {"linear_skip": True},
    {"detail_channels": 3},
    {"attention_window": 2},
    {"conditioning": "in_context"},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_gradient_reaches_every_parameter(options):
    model = tiny(**options).train()
    loss, _ = model.loss(batch(), seeded_each(2))
    loss.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


def linear_path(**options) -> AutoencoderRegen:
    torch.manual_seed(0)
    return AutoencoderRegen(**asdict(TINY) | {"linear_skip": "overlapping"} | options).eval()


def test_a_linear_path_starts_as_the_linear_embedder():
    """In one step and in many, at any times, and in tiles, which see linear parts of the whole picture."""
    model, video = linear_path(detail_channels=3), batch()["clip"]
    linear = AutoencoderLinear(4, 4)
    linear.encoder, linear.decoder = model.linear_encoder, model.linear_decoder
    latents = model.encode(video).latent_dist.mode()
    torch.testing.assert_close(latents, linear.encode(video).latent_dist.mode())
    times = torch.tensor([0.0, 0.3, 1.0, 1.25, -0.5])
    expected = linear.decode(latents, times).sample
    for options in ({}, {"steps": 3, "generator": seeded()}, {"tile": Tile(16, 16, 8)}):
        frames = model.decode(latents, times, **options).sample
        torch.testing.assert_close(frames, expected, atol=1e-5, rtol=1e-4)
    tiled = model.encode(video, tile=Tile(16, 16, 8)).latent_dist.mode()
    torch.testing.assert_close(tiled, latents, atol=1e-5, rtol=1e-4)
    image = model.encode(video[:, :, :1]).latent_dist.mode()
    torch.testing.assert_close(model.decode(image).sample, linear.decode(image).sample, atol=1e-5, rtol=1e-4)
    data = batch(targets=3) | {"times": torch.tensor([0.5, 0.6, 1.0])}
    error = (
        linear.decode(linear.encode(data["clip"]).latent_dist.mode(), data["times"]).sample - data["target"]
    )
    psnr = -10 * torch.log10(error.square().mean() / 4)
    loss, logs = linear_path(detail_channels=3, pure_noise_prob=1.0, zero_noise_prob=0.0).loss(
        data, seeded_each(2)
    )
    torch.testing.assert_close(loss, error.square().mean())
    torch.testing.assert_close(logs["psnr"], psnr)


def test_the_transformer_sees_the_linear_reconstruction():
    model = awake(linear_path())
    inputs = torch.randn(1, 3, 1, 16, 24), torch.randn(1, 1, 2, 3, 24), torch.ones(1), None
    with_it, without = (model.decoder(*inputs, scale * torch.ones(1, 3, 1, 16, 24)) for scale in (1, 0))
    assert not torch.allclose(with_it, without)


def test_gradient_reaches_every_parameter_of_a_linear_path():
    model = awake(linear_path(detail_channels=3)).train()
    for data in (batch(), batch(frames=1, targets=1) | {"times": torch.zeros(1)}):
        model.loss(data, seeded_each(2))[0].backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


def test_detail_crosses_the_borders_of_patches():
    """A change of one token reaches pixels of the next patch, but only by the convolution's reach."""
    decoder = awake(AutoencoderRegen(**asdict(TINY) | {"detail_channels": 3})).decoder
    features = torch.zeros(1, 3, 1, 16, 24)
    changed = features.clone()
    changed[..., :8, :8] = 1
    rows, columns = (decoder.detail(changed) - decoder.detail(features))[0, 0, 0].nonzero().T
    assert rows.max() == 9 and columns.max() == 9


def test_the_generator_of_an_entry_decides_its_frames_whatever_the_batch():
    model, latents = tiny(), torch.randn(3, 4, 2, 2, 2)
    whole = model.decode(latents, steps=2, generator=[seeded(7), seeded(8), seeded(9)]).sample
    alone = model.decode(latents[1:2], steps=2, generator=seeded(8)).sample
    torch.testing.assert_close(whole[1:2], alone, atol=1e-5, rtol=1e-4)
    assert torch.equal(alone, model.decode(latents[1:2], steps=2, generator=seeded(8)).sample)
    by_heun = model.decode(latents[1:2], steps=2, generator=seeded(8), solver=diffusion.heun).sample
    assert not torch.allclose(alone, by_heun)
    assert not torch.allclose(alone, model.decode(latents[1:2], steps=2, generator=seeded(1)).sample)


@pytest.mark.parametrize("rule", ["content", "siren"])
def test_images_train_all_but_the_motion_part(rule):
    """The SIREN makes the positions of images only in the literal rule, with a time of 0 as its input."""
    model = tiny(first_frame=rule).train()
    model.loss(batch(frames=1, targets=1) | {"times": torch.zeros(1)}, seeded_each(2))[0].backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    siren = {name for name, _ in model.named_parameters() if name.startswith("conditioner.siren.")}
    assert silent == (siren if rule == "content" else {"conditioner.siren.layers.0.linear.weight"})


@pytest.mark.parametrize(("ratio", "frequency"), [(4, 4.0), (8, 8.0), (16, 16.0), (32, 30.0)])
def test_the_frequency_of_the_siren_follows_the_ratio_and_is_stored(ratio, frequency, tmp_path):
    model = tiny(temporal_compression_ratio=ratio, encoder_widths=(8,) * (4 if ratio == 4 else 5))
    assert model.conditioner.siren.layers[0].omega == model.config.siren_frequency == frequency
    model.save_config(tmp_path)
    assert AutoencoderRegen.load_config(tmp_path)["siren_frequency"] == frequency
    assert tiny(siren_frequency=7.0).conditioner.siren.layers[0].omega == 7.0


def test_predictions_of_the_noise_decode_in_two_steps_and_more():
    model, latents = tiny(prediction="epsilon"), torch.randn(1, 4, 2, 2, 2)
    assert model.min_steps == 2 and tiny().min_steps == 1
    few, many = (model.decode(latents, steps=steps, generator=seeded()).sample for steps in (2, 8))
    assert few.isfinite().all() and many.isfinite().all() and not torch.allclose(few, many)


@pytest.mark.parametrize("zero_noise_prob", [0.0, 1.0])
def test_the_loss_is_the_velocity_error(zero_noise_prob):
    """With a network that predicts zero, the loss at t = 1 is E[x_0²] for `sample`, E[v²] for `velocity`."""
    data, noise = batch(), {"pure_noise_prob": 1.0, "zero_noise_prob": zero_noise_prob}
    for prediction in ("sample", "velocity"):
        model = AutoencoderRegen(**asdict(TINY) | {"prediction": prediction} | noise)
        loss, logs = model.loss(data, seeded_each(2))
        expected = data["target"].square().mean() + (prediction == "velocity" and zero_noise_prob == 0)
        assert abs(loss - expected) < 0.02
        if prediction == "sample":
            psnr = -10 * torch.log10(data["target"].square().mean() / 4)
            torch.testing.assert_close(logs["psnr"], psnr)


@pytest.mark.parametrize(
    "options",
    [{}, {"kl_weight": 0.5, "latent_noise_std": 0.1}, {"prediction": "velocity", "pure_noise_prob": 0.5}],
)
def test_the_loss_of_a_batch_is_the_mean_of_those_of_its_samples(options):
    model = tiny(**options)
    data = {"clip": torch.rand(4, 3, 5, 16, 16) * 2 - 1, "target": torch.rand(4, 3, 2, 16, 16) * 2 - 1}
    times = {"times": torch.tensor([0.25, 1.5])}
    whole, logs = model.loss(data | times, seeded_each(4))
    for size in (1, 2):
        parts = []
        for i in range(0, 4, size):
            part = {name: value[i : i + size] for name, value in data.items()}
            parts.append(model.loss(part | times, seeded_each(4)[i : i + size]))
        torch.testing.assert_close(torch.stack([loss for loss, _ in parts]).mean(), whole)
        for name in logs.keys() - {"psnr"}:
            mean = torch.stack([part_logs[name] for _, part_logs in parts]).mean()
            torch.testing.assert_close(mean, logs[name])
    other, _ = model.loss(data | times, seeded_each(4, seed=4))
    assert not torch.allclose(other, whole)


def test_every_training_option_changes_the_loss():
    data = batch()
    base = tiny()
    reference = base.loss(data, seeded_each(2))[0]
    options = {"t_min": 0.9, "pure_noise_prob": 0.9, "latent_noise_std": 0.5, "prediction": "velocity"}
    options |= {"siren_frequency": 5.0}
    for option in options.items():
        model = tiny(**dict([option]))
        model.load_state_dict(base.state_dict())
        assert not torch.allclose(model.loss(data, seeded_each(2))[0], reference), option


SOLVERS = pytest.mark.parametrize("solver", [diffusion.euler, diffusion.heun])


@SOLVERS
def test_a_tile_that_covers_the_frame_gives_the_same_bits(solver):
    model, video = tiny(), batch()["clip"]
    latents = model.encode(video).latent_dist.mode()
    frames = model.decode(latents, None, 3, seeded(), solver=solver).sample
    for tile in (Tile(16, 24, 8), Tile(512, 512)):
        assert torch.equal(model.encode(video, tile=tile).latent_dist.mode(), latents)
        tiled = model.decode(latents, None, 3, seeded(), solver=solver, tile=tile).sample
        assert torch.equal(tiled, frames)


@pytest.fixture(scope="module")
def pointwise() -> dict[str, AutoencoderRegen]:
    """Models whose decoder sees of each token its own noise and position only: no attention."""
    models = {prediction: tiny(prediction=prediction) for prediction in ("sample", "velocity")}
    for block in [block for model in models.values() for block in model.decoder.blocks]:
        torch.nn.init.zeros_(block.attention.out.weight)
        torch.nn.init.zeros_(block.attention.out.bias)
    return models


@SOLVERS
@settings(max_examples=8)
@given(
    prediction=st.sampled_from(["sample", "velocity"]),
    places=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    tile=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    overlap=st.integers(0, 1),
    steps=st.sampled_from([1, 3]),
)
def test_the_noise_of_a_pixel_does_not_depend_on_the_tiles(
    pointwise, solver, prediction, places, tile, overlap, steps
):
    model, latents = pointwise[prediction], torch.randn(1, 4, 2, *places)
    tile = Tile(8 * tile[0], 8 * tile[1], 8 * overlap)
    whole, tiled = (
        model.decode(latents, None, steps, seeded(), solver=solver, tile=choice, noise="normal").sample
        for choice in (None, tile)
    )
    torch.testing.assert_close(tiled, whole, atol=1e-4, rtol=1e-4)


@SOLVERS
def test_tiles_are_blended_in_every_step(solver):
    """In every call of the decoder, neighbouring tiles hold the same noisy pixels where they overlap."""
    model, tile, calls = tiny(), Tile(32, 40, 16), []
    hook = model.decoder.register_forward_hook(lambda module, inputs, output: calls.append(inputs[0]))
    latents = torch.randn(1, 4, 2, 6, 9)
    tiled = model.decode(latents, None, 3, seeded(), solver=solver, tile=tile).sample
    hook.remove()
    places = Tiling.of(6, 9, tile).boxes
    evaluations = 3 if solver is diffusion.euler else 5
    assert len(places) > 1
    assert len(calls) == evaluations * len(places)
    for first in range(0, len(calls), len(places)):
        noisy = torch.full((1, 3, 5, 48, 72), torch.nan)
        for place, part in zip(places, calls[first : first + len(places)], strict=True):
            there = crop(noisy, place, 8)
            assert torch.equal(part[~there.isnan()], there[~there.isnan()])
            there.copy_(part)
        assert not noisy.isnan().any()
    whole = model.decode(latents, None, 3, seeded(), solver=solver).sample
    assert not torch.allclose(tiled, whole, atol=1e-3), "attention ends at the border of a tile"


def test_tiles_of_the_encoder_agree_where_they_see_all_that_matters():
    """A latent depends on pixels up to 10 places away here. Tiles overlap by 22: in the middle of that both
    see all of it, outside it the only one does, and near their borders they see zeros instead."""
    model, reach, overlap = tiny(), 10, 22
    video = torch.rand(1, 3, 5, 8, 8 * 90) * 2 - 1
    nudged = video.clone()
    nudged[..., 8 * 45 : 8 * 46] += 0.5
    whole, moved = (model.encode(clip).latent_dist.mode() for clip in (video, nudged))
    seen = ((whole - moved).abs() > 1e-6).flatten(0, 3).any(0).nonzero()
    assert 45 - reach <= seen.min() < seen.max() <= 45 + reach, "the test's own assumption"
    tile = Tile(8, 8 * 2 * overlap, 0)
    blunt = model.encode(video, tile=tile).latent_dist.mode()
    tiled = model.encode(video, tile=Tile(8 * 44, 8 * 44, 8 * overlap)).latent_dist.mode()
    same = torch.ones(90, dtype=torch.bool)
    for (_, stop), (start, _) in pairwise(Tiling.of(1, 90, Tile(8 * 44, 8 * 44, 8 * overlap)).columns):
        assert stop - start == overlap
        same[start : start + reach] = same[stop - reach : stop] = False
    assert 0 < same.sum() < 90
    torch.testing.assert_close(tiled[..., same], whole[..., same], atol=1e-5, rtol=1e-4)
    differs = (tiled - whole).abs().max()
    assert 1e-3 < differs < (blunt - whole).abs().max(), "fading hides most of what the borders do"


@pytest.mark.parametrize("frame", [0, 1])
def test_in_context_every_latent_reaches_every_pixel(frame):
    model, latents = tiny(conditioning="in_context"), torch.randn(1, 4, 2, 2, 3)
    moved = latents.clone()
    moved[:, :, frame, 1, 2] += 1
    a, b = (model.decode(x, generator=seeded()).sample for x in (latents, moved))
    assert ((a - b).abs().amax(1) > 0).float().mean() > 0.99


def test_the_parameters_around_the_conditioner_are_those_of_the_content_aware_model():
    in_context, content_aware = tiny(conditioning="in_context"), tiny()

    def around(model: AutoencoderRegen) -> dict[str, torch.Size]:
        return {k: v.shape for k, v in model.state_dict().items() if not k.startswith("conditioner")}

    assert around(in_context) == around(content_aware)
    assert in_context.activation_bytes(5, 512, 512) > content_aware.activation_bytes(5, 512, 512)


def test_context_tokens_lie_at_their_coordinates():
    """Frames at k τ, the content latent at 0, the motion latent at k; a tile where it lies in the picture."""
    network, latents = ContextConditioner(4, 24, ratio=8), torch.randn(2, 4, 2, 3, 5)
    times = torch.tensor([-0.125, 0.0, 0.5, 1.0])
    positions, tokens = network(latents, times)
    rows, columns = torch.arange(3.0), torch.arange(5.0)
    expected = grid_sinusoidal_embedding(torch.tensor([-1.0, 0.0, 4.0, 8.0]), rows, columns, 24)
    torch.testing.assert_close(positions[0], expected)
    plain = network.embed(latents.movedim(1, -1))
    torch.testing.assert_close(tokens - plain, expected[[1, 3]].expand(2, -1, -1, -1, -1))
    at, more = network(latents[..., 1:, 2:], times, corner=(1, 2))
    torch.testing.assert_close(at, positions[:, :, 1:, 2:])
    torch.testing.assert_close(more, tokens[:, :, 1:, 2:])
    at, more = network(latents[:, :, :1], torch.zeros(1))
    torch.testing.assert_close(at, positions[:, 1:2])
    torch.testing.assert_close(more, tokens[:, :1])


@pytest.mark.parametrize("width", [24, 26, 27, 64])
def test_each_third_of_a_position_encodes_one_coordinate(width):
    t, y, x = torch.tensor([0.0, 3.0]), torch.arange(4.0), torch.arange(2.0, 7.0)
    grid = grid_sinusoidal_embedding(t, y, x, width)
    third = 2 * (width // 6)
    assert grid.shape == (2, 4, 5, width)
    assert torch.equal(grid[1, 2, 3, :third], sinusoidal_embedding(t, third)[1])
    assert torch.equal(grid[1, 2, 3, third : 2 * third], sinusoidal_embedding(y, third)[2])
    assert torch.equal(grid[1, 2, 3, 2 * third : 3 * third], sinusoidal_embedding(x, third)[3])
    assert not grid[..., 3 * third :].any()
    assert len(grid.flatten(0, 2).unique(dim=0)) == 2 * 4 * 5


def test_in_context_tiles_carry_their_place_in_the_picture():
    model, latents, tile = tiny(conditioning="in_context"), torch.randn(1, 4, 2, 6, 9), Tile(32, 40, 16)
    calls: list[torch.Tensor] = []
    hook = model.decoder.register_forward_hook(lambda module, inputs, output: calls.append(inputs[1]))
    whole = model.decode(latents, generator=seeded()).sample
    tiled = model.decode(latents, generator=seeded(), tile=tile).sample
    hook.remove()
    everywhere, *parts = calls
    places = Tiling.of(6, 9, tile).boxes
    assert len(parts) == len(places) > 1
    for ((top, bottom), (left, right)), part in zip(places, parts, strict=True):
        torch.testing.assert_close(part, everywhere[:, :, top:bottom, left:right])
    assert tiled.shape == whole.shape
    covered = model.decode(latents, generator=seeded(), tile=Tile(512, 512)).sample
    assert torch.equal(covered, whole)


@pytest.mark.integration
def test_one_clip_is_learnt_above_30_db_in_one_step():
    with VideoReader(EXAMPLE) as reader:
        frames = torch.stack(
            [resize_center_crop(frame.image, parse_size("48")) for frame in islice(reader, 30, 35)]
        )
    clip = rearrange(frames / 127.5 - 1, "t h w c -> 1 c t h w")
    data = {"clip": clip, "target": clip, "times": torch.linspace(0, 1, 5)}
    model = AutoencoderRegen(**asdict(RECIPES["toy"].model)).train()
    steps, config = 400, OptimizerConfig(1e-3, muon_learning_rate=2e-3, warmup_steps=20, decay_fraction=0.5)
    optimizers = build_optimizers(model, config)
    for step in range(steps):
        set_learning_rate(optimizers, learning_rate_factor(step, steps, config))
        model.loss(data, seeded_each(1, step))[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    decoded = model.eval()(clip, generator=seeded(1)).sample
    psnr = -10 * torch.log10((decoded - clip).square().mean() / 4)
    assert psnr > 30, psnr
