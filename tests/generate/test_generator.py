"""The generator: any size, samples apart from each other, its loss in closed form, its configuration."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_generator import (
    CHANNELS,
    CLASSES,
    HYBRID,
    KINDS,
    awake,
    condition_of,
    fresh,
    generators,
    latents_of,
    make_batch,
    rows,
)
from torch import Tensor

from regen.generate.generator import LatentGenerator, LatentSpec, shift_noise_levels
from regen.generate.inputs import Condition
from regen.latents import Latents, collate
from regen.pretrained.models import load_as


def close(one: Latents, other: Latents, atol: float = 1e-5) -> None:
    torch.testing.assert_close(one.parts, other.parts, atol=atol, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("chunks", "frames", "size"), [(1, None, (2, 2)), (3, None, (6, 4)), (1, 1, (4, 8))])
def test_velocity_has_the_shape_of_the_latents_and_is_zero_at_first(kind, chunks, frames, size):
    noisy = latents_of(kind, 2, chunks, *size, frames)
    answer = fresh(kind).velocity(noisy, torch.rand(2), condition_of(kind))
    assert [part.shape for part in answer.parts] == [part.shape for part in noisy.parts]
    assert not any(part.any() for part in answer.parts)
    answer = awake(kind)(noisy, torch.rand(1), condition_of(kind))
    assert all(part.isfinite().all() and part.any() for part in answer.parts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("chunks", "frames", "size"), [(2, None, (3, 7)), (1, None, (5, 4)), (1, 1, (1, 3))])
def test_patches_that_do_not_divide_a_side_repeat_the_border(kind, chunks, frames, size):
    """The velocity is that of the padded grid, cropped; the loss counts what exists."""
    model, condition, t = awake(kind, given_frames_prob=0.0), condition_of(kind), torch.rand(2)
    noisy = latents_of(kind, 2, chunks, *size, frames)
    found = model.velocity(noisy, t, condition)
    assert found.shape == noisy.shape
    if not noisy.has_sequence:  # regions of the padded picture are others
        height, width = (-(-side // 2) * 2 for side in size)
        border = (0, width - size[1], 0, height - size[0], 0, 0)
        padded = Latents.of(torch.nn.functional.pad(noisy.grid, border, mode="replicate"))
        expected = model.velocity(padded, t, condition).grid[..., : size[0], : size[1]]
        torch.testing.assert_close(found.grid, expected)
    recorder = Recorder(**KINDS[kind] | {"given_frames_prob": 0.0})
    batch = make_batch(noisy, condition)
    _, logs = recorder.loss(batch, generators(2))
    own = generators(2)
    for each in own:  # the draws before the noise
        torch.rand(2, generator=each), torch.randn((), generator=each)
        torch.rand((), generator=each), torch.rand(3, generator=each)
    torch.testing.assert_close(logs["velocity"], (noisy.noise(own).grid - noisy.grid).square().mean())
    loss, _ = model.train().loss(batch, generators(2))
    loss.backward()
    assert loss.isfinite() and model.embed.weight.grad.any()


@pytest.mark.parametrize("prediction", ["velocity", "sample"])
@pytest.mark.parametrize("timestep", ["adaln_single", "adaln_zero"])
def test_classes_are_learned_early(timestep, prediction):
    """Two classes of constant latents, +1 and -1: their velocities at pure noise are 2 apart."""
    model = fresh(
        "class", timestep_conditioning=timestep, prediction=prediction, condition_dropout=0.0,
        given_frames_prob=0.0,
    ).train()  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    label = torch.arange(16) % 2
    clean = (2.0 * label - 1).reshape(-1, 1, 1, 1, 1).expand(16, CHANNELS, 1, 4, 4)
    for _ in range(60):
        model.loss({"latents": clean, "label": label}, generators(16))[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    noise = Latents.of(torch.randn(1, CHANNELS, 1, 4, 4).expand(2, -1, -1, -1, -1))
    first, second = model.velocity(noise, torch.ones(1), Condition(label=torch.arange(2))).grid.detach()
    assert (first - second).mean() > 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_velocity_follows_from_predicted_clean_latents(kind):
    """(x_t - x₀) / max(t, t_min), with the network's output as x₀."""
    model = awake(kind, prediction="sample", t_min=0.1)
    network = awake(kind)
    network.load_state_dict(model.state_dict())
    noisy, t, condition = latents_of(kind, 2, 3), torch.tensor([0.02, 0.6]), condition_of(kind)
    clean, found = network.velocity(noisy, t, condition), model.velocity(noisy, t, condition)
    for i, level in enumerate((0.1, 0.6)):
        for x, x0, velocity in zip(noisy.parts, clean.parts, found.parts, strict=True):
            torch.testing.assert_close(velocity[i], (x[i] - x0[i]) / level)
    with pytest.raises(ValueError, match="t_min > 0"):
        fresh(kind, prediction="sample", t_min=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_reaches_every_parameter(kind):
    model = awake(kind, given_frames_prob=1.0, condition_dropout=0.5).train()
    batch = make_batch(latents_of(kind, 8, 3), condition_of(kind, 8))
    if "label" in batch:
        batch["label"] = torch.arange(8) % len(CLASSES)
    model.loss(batch, generators(8))[0].backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("kind", KINDS)
def test_velocity_of_a_sample_does_not_depend_on_the_batch(kind):
    model, noisy, condition, t = awake(kind), latents_of(kind, 3), condition_of(kind, 3), torch.rand(3)
    given = torch.arange(4) < torch.tensor([[0], [1], [2]])
    together = model.velocity(noisy, t, condition, given)
    for i in range(3):
        part = slice(i, i + 1)
        answer = model.velocity(collate([noisy[i]]), t[part], rows(condition, part), given[part])
        close(collate([together[i]]), answer)


@pytest.mark.parametrize("kind", ["hybrid text", "hybrid class"])
def test_padding_of_1d_latents_changes_nothing(kind):
    model, latents, condition = awake(kind, given_frames_prob=1.0), latents_of(kind, 3), condition_of(kind, 3)
    filler = torch.full((3, latents.sequence.shape[1], 4), 9.0)
    longer = replace(latents, sequence=torch.cat([latents.sequence, filler], dim=2))
    t = torch.rand(3)
    answer, wanted = (model.velocity(one, t, condition) for one in (longer, latents))
    assert answer.sequence.shape == longer.sequence.shape
    cut = Latents(answer.grid, answer.sequence[..., : latents.sequence.shape[2]], answer.lengths)
    for i in range(3):
        close(cut[i], wanted[i])
    losses = [model.loss(make_batch(one, condition), generators(3))[0] for one in (longer, latents)]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("kind", ["text", "hybrid class"])
def test_velocity_depends_on_condition_noise_level_and_given_frames(kind):
    model, noisy, t = awake(kind), latents_of(kind), torch.tensor([0.3, 0.6])
    condition, given = condition_of(kind), torch.zeros(2, 4, dtype=torch.bool)
    out = model.velocity(noisy, t, condition, given).parts
    others = (
        model.velocity(noisy, t, condition.unconditional(), given),
        model.velocity(noisy, 1 - t, condition, given),
        model.velocity(noisy, t, condition, given | (torch.arange(4) < 2)),
    )
    for other in others:
        assert all(not torch.allclose(a, b, atol=1e-4) for a, b in zip(out, other.parts, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_mean_of_that_of_its_samples(kind):
    model = awake(kind, given_frames_prob=0.5, condition_dropout=0.5)
    latents, condition = latents_of(kind, 4), condition_of(kind, 4)
    batch = make_batch(latents, condition)
    whole, _ = model.loss(batch, generators(4))
    parts = [
        model.loss({name: value[i : i + 1] for name, value in batch.items()}, generators(1, i))[0]
        for i in range(4)
    ]
    torch.testing.assert_close(whole, torch.stack(parts).mean())
    assert len({round(part.item(), 4) for part in parts}) == 4


@pytest.mark.parametrize("kind", ["text", "hybrid class"])
def test_loss_at_initialisation_is_two(kind):
    """E (ε - x₀)² = 2 for data of deviation 1, for each kind of latents."""
    model = fresh(kind, given_frames_prob=0.0)
    loss, logs = model.loss(make_batch(latents_of(kind, 64), condition_of(kind, 64)), generators(64))
    names = ["velocity", "velocity_1d"][: 1 + kind.startswith("hybrid")]
    assert {*logs} == {"loss", *names}
    for name in names:
        assert logs[name] == pytest.approx(2, abs=0.15)
    torch.testing.assert_close(loss, sum(logs[name] for name in names))


class Recorder(LatentGenerator):
    """Records its calls; its output is zero."""

    def velocity(
        self, noisy: Latents, t: Tensor, condition: Condition, given: Tensor | None = None
    ) -> Latents:
        self.calls = noisy, t, condition, given
        return noisy.map(torch.zeros_like)


def record(kind: str, latents: Latents, **changes: Any) -> tuple[Recorder, dict[str, Tensor]]:
    model = Recorder(**KINDS[kind] | changes)
    count = len(latents)
    _, logs = model.loss(make_batch(latents, condition_of(kind, count)), generators(count))
    return model, logs


@pytest.mark.parametrize("kind", ["none", "hybrid class"])
def test_given_frames_carry_no_noise_and_are_not_counted(kind):
    latents = latents_of(kind, 40, 3)
    model, logs = record(kind, latents, given_frames_prob=1.0)
    noisy, _, _, given = model.calls
    counts = given.sum(1)
    assert {*counts.tolist()} == {1, 2, 4}, "the first latent frame, one chunk, or two of three"
    assert all(row[:count].all() for row, count in zip(given, counts, strict=True))
    unknown = model.layout.generated_mask(latents, given)
    own, total = generators(40), []
    for each in own:  # the draws before the noise: its level, the condition, what is given
        torch.rand(2, generator=each), torch.randn((), generator=each)
        torch.rand((), generator=each), torch.rand(3, generator=each)
    noise = latents.noise(own)
    for part, seen, mask, e in zip(latents.parts, noisy.parts, unknown.parts, noise.parts, strict=True):
        mask = mask.expand_as(part)
        assert torch.equal(seen[~mask], part[~mask])
        assert not torch.isclose(seen[mask], part[mask]).all()
        error = (e - part).square() * mask
        total.append((error.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp_min(1)).mean())
    torch.testing.assert_close(logs["loss"], torch.stack(total).sum())


def test_given_frames_of_a_single_chunk_and_of_an_image():
    model, _ = record("none", latents_of("none", 30, 1), given_frames_prob=0.5)
    counts = model.calls[3].sum(1)
    assert {*counts.tolist()} == {0, 1} and 5 < counts.sum() < 25
    model, _ = record("none", latents_of("none", 3, frames=1), given_frames_prob=1.0)
    assert not model.calls[3].any()


def test_noise_levels_are_shifted():
    latents = latents_of("none", 200, 1, 2, 2)
    plain, high = (record("none", latents, timestep_shift=shift)[0].calls[1] for shift in (1.0, 3.0))
    torch.testing.assert_close(high, 3 * plain / (1 + 2 * plain))
    assert high.mean() > plain.mean() + 0.15
    assert torch.equal(shift_noise_levels(torch.tensor([0.0, 1.0]), 3.0), torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("kind", ["text", "class"])
def test_dropout_makes_the_condition_irrelevant(kind):
    latents, one, two = latents_of(kind, 3), condition_of(kind, 3), condition_of(kind, 3)
    if kind == "class":
        one, two = Condition(torch.tensor([0, 1, 2])), Condition(torch.tensor([1, 2, 0]))
    for share, same in ((1.0, True), (0.0, False)):
        model = awake(kind, condition_dropout=share)
        batches = [make_batch(latents, condition) for condition in (one, two, one.unconditional())]
        first, *others = (model.loss(batch, generators(3))[0] for batch in batches)
        assert [torch.equal(first, other) for other in others] == [same, same]


def test_concat_of_conditions():
    one, two = condition_of("text", 2, 5), condition_of("text", 1, 3)
    both = one.concat(two)
    assert both.text.shape == (3, 5, 10)
    model, noisy = awake("text"), latents_of("text", 3)
    together = model.velocity(noisy, torch.full((1,), 0.4), both)
    close(collate([together[2]]), model.velocity(collate([noisy[2]]), torch.full((1,), 0.4), two))


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"heads": 5}, "heads"),
        ({"heads": 8}, "heads"),
        ({"num_joint_layers": 3, "text_width": 8}, "num_joint_layers <= depth"),
        ({"num_joint_layers": 1}, "text for num_joint_layers"),
        ({"classes": CLASSES, "text_width": 8}, "not both"),
        ({"condition_dropout": 1.5}, "condition_dropout"),
        ({"given_frames_prob": -0.1}, "given_frames_prob"),
        ({"timestep_shift": 0.0}, "timestep_shift > 0"),
        ({"patch_size": 0}, "patch_size >= 1"),
        ({"attention": "factorised", "text_width": 8}, "joint attention for text"),
        ({"attention": "factorised", "latent_spec": HYBRID}, "joint attention for text and 1D"),
        ({"attention": "factorised", "depth": 3}, "depth % 2 == 0"),
        ({"attention": "factorised", "width": 18, "heads": 3}, "width % 4 == 0"),
    ],
)
def test_options_that_exclude_each_other_raise(changes, wanted):
    with pytest.raises(ValueError, match=wanted):
        fresh("none", **changes)


@pytest.mark.parametrize("kind", ["hybrid text", "class"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_it_answers_the_same(kind, dtype, tmp_path):
    changes = {"sizes": ((32, 48),), "length_counts": ((3, 1), (0, 2)), "spatial_compression_ratio": 16}
    source = KINDS[kind]["latent_spec"] | changes
    model = awake(kind, latent_spec=source, timestep_shift=2.0).to(dtype)
    model.save_pretrained(tmp_path / "model")
    again = load_as(LatentGenerator, tmp_path / "model", torch.device("cpu"), dtype)
    assert again.latent_spec == model.latent_spec == LatentSpec.from_dict(source)
    assert again.latent_spec.sizes == ((32, 48),) and again.config.timestep_shift == 2.0
    noisy, condition, t = latents_of(kind), condition_of(kind), torch.rand(2)
    answer, wanted = (one.velocity(noisy, t, condition) for one in (again, model))
    for a, b in zip(answer.parts, wanted.parts, strict=True):
        assert a.dtype == dtype and torch.equal(a, b)
    if kind == "class":
        assert again.labels(["dog"]).tolist() == [1]


def test_factorised_attention_has_the_parameters_of_the_joint_one():
    shapes = [
        {name: value.shape for name, value in fresh("class", attention=attention).state_dict().items()}
        for attention in ("joint", "factorised")
    ]
    assert shapes[0] == shapes[1]


GOLDEN = {"text": "39824804fa002a1d", "hybrid class": "78d6380d2887fa5a"}


@pytest.mark.parametrize("kind", GOLDEN)
def test_parameter_names_and_shapes_are_frozen(kind):
    """So that trained generators keep loading."""
    lines = sorted(f"{key} {tuple(value.shape)}" for key, value in fresh(kind).state_dict().items())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == GOLDEN[kind]
