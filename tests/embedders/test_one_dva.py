"""AutoencoderOneDVA: the contract of an embedder, lengths, losses, post-training ."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regen.embedders.one_dva import AutoencoderOneDVA, OneDVAConfig
from regen.latents import Latents, collate
from regen.losses.alignment import AlignmentConfig
from regen.losses.auxiliary import AuxiliaryLosses, LossConfig
from regen.losses.one_dva import OneDVAObjective, PredictionConfig, denoised, unit_gaussian_velocity
from regen.networks.length_rule import MotionLengthRule
from regen.recipes import RECIPES
from regen.runtime import generator_for
from regen.tiling import Tile

CPU = torch.device("cpu")
CONFIG = OneDVAConfig(
    latent_channels=4, encoder_width=24, encoder_depth=2, encoder_heads=2, width=24, depth=3, heads=2,
    pixel_channels=2, num_queries=60, length_rule=MotionLengthRule(multiple=4),
)  # fmt: skip
VARIANTS: dict[str, dict] = {
    "plain": {},
    "regions": {"region_size": 2, "num_queries": 20},
    "few queries": {"num_queries": 20},
    "rotary": {"query_positions": "rotary"},
    "queries without positions": {"query_positions": "none"},
    "no skip": {"long_skip": False},
    "shortcut": {"linear_skip": True},
    "no posterior": {"kl_weight": 0.0},
    "velocity": {"prediction": "velocity"},
    "one modulation": {"timestep_conditioning": "adaln_single"},
    "added noise level": {"timestep_conditioning": "add"},
    "other patches": {"temporal_compression_ratio": 2, "spatial_compression_ratio": 8, "chunk_frames": 5},
}


def tiny(awake: bool = True, objective: OneDVAObjective | None = None, **options) -> AutoencoderOneDVA:
    """With random weights everywhere where it is to be `awake`: zero-initialised layers hide what acts."""
    torch.manual_seed(0)
    model = AutoencoderOneDVA(**asdict(replace(CONFIG, objective=objective or CONFIG.objective, **options)))
    for parameter in model.parameters() if awake else ():
        torch.nn.init.normal_(parameter, std=0.15)
    return model.eval()


def clip(frames: int = 17, height: int = 32, width: int = 48, count: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(count, 3, frames, height, width, generator=generator) * 2 - 1


def each(count: int, seed: int = 0) -> list[torch.Generator]:
    return [generator_for(seed, i) for i in range(count)]


def budget(model: AutoencoderOneDVA, video: torch.Tensor) -> int:
    return sum(model.budgets(*video.shape[2:]))


@pytest.mark.parametrize(
    ("size", "patches"),
    [((17, 256, 256), 1280), ((17, 256, 456), 2320), ((1, 256, 256), 256), ((9, 100, 33), 3 * 7 * 3)],
)
def test_there_is_a_structural_latent_for_each_patch(size, patches):
    model = tiny(num_queries=2560)
    n, y, x = model.patches.grid(*size)
    assert n * y * x == patches
    assert sum(model.budgets(*size)) == patches


@given(st.integers(1, 17), st.integers(1, 50), st.integers(1, 50), st.sampled_from(sorted(VARIANTS)))
def test_any_size_comes_back(frames, height, width, variant):
    model = tiny(**VARIANTS[variant])
    video = clip(min(frames, model.chunk_frames), height, width)
    assert model(video, generator=generator_for(0)).sample.shape == video.shape


@pytest.mark.parametrize("variant", VARIANTS)
def test_latents_of_a_shorter_length_are_the_first_of_the_longer(variant):
    model = tiny(**VARIANTS[variant])
    video = clip(model.chunk_frames, count=2)
    most = budget(model, video)
    full = model.encode(video, length=most).latent_dist.mode()
    for length in (0, 1, most // 3, most):
        short = model.encode(video, length=length).latent_dist.mode()
        assert short.lengths.sum(1).tolist() == [length, length]
        assert torch.equal(short.grid, full.grid)
        assert torch.equal(short.sequence, full.truncate(short.lengths).sequence)


def test_the_posterior_is_normalised_and_sampled():
    model = tiny(kl_weight=1e-6)
    raw = model.encode(clip()).latent_dist
    model.set_latent_statistics(torch.full((2, 4), 0.5), torch.full((2, 4), 2.0))
    normal = model.encode(clip()).latent_dist
    for part, raw_part in zip((normal.grid, *normal.parts), (raw.grid, *raw.parts), strict=True):
        torch.testing.assert_close(part[:, :4], (raw_part[:, :4] - 0.5) / 2)
        torch.testing.assert_close(part[:, 4:], raw_part[:, 4:] - 2 * math.log(2))
    assert not torch.equal(raw.sample(generator_for(0)).sequence, raw.mode().sequence)


def test_regions_are_encoded_apart():
    model = tiny(**VARIANTS["regions"])
    video = clip()
    changed = video.clone()
    changed[..., 32:] = 0.5  # the second region
    before, after = (model.encode(v, length=budget(model, v)).latent_dist.mode() for v in (video, changed))
    first = int(before.lengths[0, 0])
    assert before.lengths.shape == (1, 2)
    assert torch.equal(before.sequence[..., :first], after.sequence[..., :first])
    assert not torch.equal(before.sequence[..., first:], after.sequence[..., first:])


@pytest.mark.parametrize("variant", ["regions", "few queries"])
def test_tiles_change_no_value(variant):
    model = tiny(**VARIANTS[variant])
    video, tile = clip(9, 48, 64), Tile(32, 32, 0)
    whole, tiled = (model.encode(video, tile=t).latent_dist.mode() for t in (None, tile))
    torch.testing.assert_close(whole.sequence, tiled.sequence, atol=1e-5, rtol=1e-4)
    decoded = [model.decode(whole, steps=2, generator=generator_for(0), tile=t).sample for t in (None, tile)]
    torch.testing.assert_close(*decoded, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("frames", ["chunk", "image"])
def test_gradient_reaches_every_parameter(variant, frames):
    objective = OneDVAObjective(lengths="full", l1_weight=0.1, latent_noise_std=0.1)
    model = tiny(objective=objective, **VARIANTS[variant]).train()
    video = clip(model.chunk_frames if frames == "chunk" else 1, 24, 40, count=4)
    loss, logs = model.loss({"clip": video, "target": video}, each(4))
    loss.backward()
    assert torch.isfinite(loss)
    assert {"psnr", "length", "rank", "loss"} <= logs.keys()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("variant", ["plain", "regions"])
def test_the_loss_is_the_mean_of_its_samples(variant):
    """Whatever each of them keeps, and with all terms; so a batch may be divided in any way."""
    objective = OneDVAObjective(keep_all_prob=0.3, latent_noise_std=0.1)
    model = tiny(objective=objective, kl_weight=1.0, **VARIANTS[variant])
    auxiliary = AuxiliaryLosses(LossConfig(alignment=AlignmentConfig(1.0)), CPU, channels=4)
    video = clip(17, 40, 20, count=6)
    video[0] = video[0, :, :1]
    model.loss({"clip": video, "target": video}, each(6), auxiliary)
    auxiliary.update(lambda tensors: None)  # has running means from here on
    whole, logs = model.loss({"clip": video, "target": video}, each(6), auxiliary)
    parts = [
        model.loss({"clip": v[None], "target": v[None]}, [generator], auxiliary)[0]
        for v, generator in zip(video, each(6), strict=True)
    ]
    assert logs["kl"] > 0 and logs["alignment"] > 0
    torch.testing.assert_close(whole, torch.stack(parts).mean(), atol=1e-4, rtol=1e-4)


def decoder_calls(model: AutoencoderOneDVA) -> list[tuple[int, int, torch.Tensor | None]]:
    """Samples, 1D latents and mask of each call of the decoder from now on."""
    calls: list[tuple[int, int, torch.Tensor | None]] = []
    model.decoder.register_forward_pre_hook(
        lambda _, arguments: calls.append((len(arguments[0]), arguments[2].shape[2], arguments[3]))
    )
    return calls


@pytest.mark.parametrize("variant", ["plain", "regions"])
def test_nothing_is_masked_where_all_lengths_are_equal(variant):
    """A mask rules out flash attention, so there is none where all would be True."""
    for lengths in ("full", "none"):
        model = tiny(objective=OneDVAObjective(lengths), **VARIANTS[variant])
        calls, video = decoder_calls(model), clip(17, 32, 64, count=3)
        model.loss({"clip": video, "target": video}, each(3))
        latents = model.encode(video, length=budget(model, video) // 2).latent_dist.mode()
        model.decode(latents, generator=generator_for(0))
        model.decode(collate([latents[1]]), generator=generator_for(0))
        assert len(calls) == 3
        assert all(mask is None for _, _, mask in calls)
        assert calls[0][1] == (20 if variant == "regions" else 40) * (lengths == "full")


def test_training_decodes_no_more_1d_latents_than_clips_of_similar_length_need():
    """In four groups by length, each padded to its longest, whatever the lengths: FSDP needs equal calls."""
    video = clip(17, 32, 64, count=8)
    for keep_all_prob in (0.0, 1.0):
        objective = OneDVAObjective(keep_all_prob=keep_all_prob, pure_noise_prob=1.0)
        model = tiny(objective=objective, length_rule=MotionLengthRule(4, motion_range=(1e-5, 1e-4)))
        calls, drawn = decoder_calls(model), []
        sample = MotionLengthRule.sample

        def recorded(*arguments, sample=sample, drawn=drawn):
            drawn.append(sample(*arguments))
            return drawn[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MotionLengthRule, "sample", recorded)
            model.loss({"clip": video, "target": video}, each(8))
        lengths = sorted(drawn[0].tolist())
        assert [(count, longest) for count, longest, _ in calls] == [(2, lengths[i]) for i in (1, 3, 5, 7)]
        for first, (_, longest, mask) in zip((0, 2, 4, 6), calls, strict=True):
            own = lengths[first : first + 2]
            assert (mask is None) == (own == [longest, longest])
            assert mask is None or mask.sum(1).tolist() == own
        assert (lengths == [40] * 8) == (keep_all_prob == 1.0)


@pytest.mark.parametrize(("least", "count"), [(1, 1), (1, 2), (2, 2), (2, 3), (4, 4), (4, 5), (7, 8)])
def test_processes_with_a_clip_more_or_less_call_the_decoder_equally_often(least, count):
    """FSDP needs equal calls, and a batch is not always divisible by the number of processes."""
    model = tiny(objective=OneDVAObjective())
    calls, video = decoder_calls(model), clip(17, 32, 64, count=count)
    model.loss({"clip": video, "target": video, "least": torch.tensor(least)}, each(count))
    assert len(calls) == min(4, least)
    assert sum(samples for samples, _, _ in calls) == count


def test_a_first_stage_may_do_without_1d_latents():
    """The other reading of stage 1: no queries in the encoder, no 1D latents, at any length."""
    model = tiny(objective=OneDVAObjective("none", latent_noise_std=0.1), kl_weight=1.0).train()
    auxiliary = AuxiliaryLosses(LossConfig(alignment=AlignmentConfig(1.0)), CPU, channels=4)
    video = clip(count=2)
    loss, logs = model.loss({"clip": video, "target": video}, each(2), auxiliary)
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(value) for value in logs.values())
    assert logs["length"] == logs["rank"] == logs["alignment"] == 0 and logs["kl"] > 0
    unused = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    expected = ("encoder.queries", "encoder.sequence.", "decoder.index_embedding", "decoder.sequence.")
    assert unused == {name for name, _ in model.named_parameters() if name.startswith(expected)}
    model.eval()
    before = model.encode(video).latent_dist.mode()
    assert before.length == sum(model.budgets(*video.shape[2:])) == 0
    torch.nn.init.normal_(model.encoder.queries)
    assert torch.equal(model.encode(video).latent_dist.mode().grid, before.grid)
    assert model.decode(before).sample.shape == (2, 3, 17, 32, 48)
    second = tiny()
    second.load_state_dict(model.state_dict())
    assert second.encode(video).latent_dist.mode().length > 0


def test_the_loss_does_not_see_padding():
    video = clip(17, 40, 20, count=3)
    perfect = tiny(objective=OneDVAObjective(pure_noise_prob=1.0), kl_weight=0.0)
    padding = perfect.patches.pad(torch.zeros_like(video)) + 1
    perfect.patches.crop(padding, *video.shape[2:])[...] = 0
    perfect._decode_regions = lambda noisy, *_, **__: (perfect.patches.pad(video) + 7 * padding, noisy)
    assert float(perfect.loss({"clip": video, "target": video}, each(3))[0]) == 0.0


@pytest.mark.parametrize("prediction", ["sample", "velocity"])
def test_the_loss_is_finite_at_full_noise_and_without_1d_latents(prediction):
    objective = OneDVAObjective(pure_noise_prob=1.0, keep_all_prob=0.0)
    model = tiny(objective=objective, prediction=prediction, length_rule=MotionLengthRule(4, 0.0, 0.0))
    for still in (torch.zeros(2, 3, 17, 32, 32), torch.zeros(2, 3, 1, 32, 32)):
        loss, logs = model.loss({"clip": still, "target": still}, each(2))
        assert torch.isfinite(loss)
        assert all(torch.isfinite(value).all() for value in logs.values())
        assert logs["length"] == 0


def test_post_training_changes_the_decoder_alone():
    model = tiny().train()
    model.encoder.requires_grad_(False)
    config = LossConfig(prediction=PredictionConfig(share=0.5))
    seen: list[Latents] = []

    def predict(clean, t, generators, batch):
        assert batch["label"] is label
        assert bool((t >= 0.05).all() & (t <= 0.6).all())
        seen.append(denoised(unit_gaussian_velocity)(clean, t, generators, batch))
        return seen[-1]

    auxiliary = AuxiliaryLosses(config, CPU, predictor=predict)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    video, label = clip(count=8), torch.arange(8)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    loss, _ = model.loss({"clip": video, "target": video, "label": label}, each(8), auxiliary)
    loss.backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": 5}, "heads"),
        ({"latent_channels": 0}, "channels.*>= 1"),
        ({"region_size": 0}, "region_size.*>= 1"),
        ({"linear_skip": True, "prediction": "velocity"}, "linear_skip"),
        ({"chunk_frames": 16}, "chunk_frames"),
        ({"num_queries": 4}, "num_queries must be > 4"),
        ({"length_rule": {"multiple": 0}}, "multiple must be >= 1, got 0"),
        ({"length_rule": {"min_ratio": 1.5}}, "min_ratio .* got 1.5"),
        ({"length_rule": {"motion_range": (0.2, 0.1)}}, "rising, got 0.2 to 0.1"),
        ({"scaling_factor": 2.0}, "scaling_factor must be 1.0, got 2.0"),
    ],
)
def test_invalid_options_are_rejected(options, words):
    with pytest.raises(ValueError, match=words):
        AutoencoderOneDVA(**asdict(CONFIG) | options)


def test_wrong_calls_are_rejected():
    model = tiny()
    latents = model.encode(clip()).latent_dist.mode()
    for words, call in (
        ("0 to 30 1D latents, got 31", lambda: model.encode(clip(), length=31)),
        ("steps must be at least 1", lambda: model.decode(latents, steps=0)),
        ("regions", lambda: tiny(region_size=1, num_queries=5).decode(latents)),
    ):
        with pytest.raises(ValueError, match=words):
            call()


@pytest.mark.integration
@pytest.mark.parametrize(
    "is_preset",
    [pytest.param(False, id="linear skip", marks=pytest.mark.slow), pytest.param(True, id="base preset")],
)
def test_a_toy_learns_to_use_what_is_kept(is_preset):
    """PSNR rises with the length: moving squares, with one structural value for 8 x 8 pixels of two frames.

    Also of the base preset at a small width, with its queries. With a value for 4 x 4 pixels the rise after
    300 updates depends on the seed: the structural latents nearly suffice.
    """
    torch.manual_seed(0)
    small = replace(CONFIG, query_positions="rotary", linear_skip=True, kl_weight=0.0)
    preset = RECIPES["onedva-base"].model if is_preset else small
    keep = preset.objective.keep_all_prob if is_preset else 0.3
    options = replace(
        preset, latent_channels=1, width=48, depth=2, heads=2, encoder_width=48, encoder_depth=2,
        encoder_heads=2, chunk_frames=5, num_queries=24, temporal_compression_ratio=2,
        spatial_compression_ratio=8, length_rule=MotionLengthRule(multiple=1),
        objective=OneDVAObjective(keep_all_prob=keep, pure_noise_prob=0.5, t_min=0.5),
    )  # fmt: skip
    model = AutoencoderOneDVA(**asdict(options))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    video = torch.stack([_square(i) for i in range(8)])
    for step in range(300):
        optimizer.zero_grad()
        model.loss({"clip": video, "target": video}, each(8, step))[0].backward()
        optimizer.step()
    model.eval()
    psnr = []
    for length in (0, 6, 12):
        latents = model.encode(video, length=length).latent_dist.mode()
        decoded = model.decode(latents, generator=each(8)).sample
        psnr.append(-10 * math.log10((decoded - video).square().mean().item() / 4))
    assert psnr[0] + 0.1 < psnr[1] < psnr[2] + 0.1, psnr


def _square(number: int) -> torch.Tensor:
    draw = torch.rand(5, generator=generator_for(number)).tolist()
    video = torch.full((3, 5, 16, 16), -0.5)
    for frame in range(5):
        top, left = int(draw[0] * 6 + frame * draw[1]), int(draw[2] * 6 + frame * draw[3])
        video[:, frame, top : top + 6, left : left + 6] = draw[4]
    return video
