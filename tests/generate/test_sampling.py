"""Sampling against a Gaussian whose velocity is known, guidance, given frames, and long videos."""

from functools import partial
from typing import Any

import pytest
import torch
from tiny_generator import CHANNELS, HYBRID, KINDS, awake, condition_of, generators, latents_of, rows
from tiny_media import same_latents
from torch import Tensor

from regen.generate.generator import LatentGenerator
from regen.generate.inputs import Condition
from regen.generate.sampling import GivenFrames, SampleOptions, nfe, sample, sample_video, sampling_schedule
from regen.latents import Latents, collate

MEAN, DEVIATION = 1.5, 0.5


class Gaussian(LatentGenerator):
    """Data from N(m, s²); a condition moves m by the class. Records its calls.

    E[v | x_t] = (t - (1 - t) s²) / σ² (x_t - (1 - t) m) - m, with σ² = (1 - t)² s² + t².
    """

    def __init__(self, shift: float = 1.0, chunks: int = 1, classes: tuple[str, ...] = ("one", "two")):
        super().__init__(
            8, 1, 1, timestep_shift=shift, latent_spec=HYBRID | {"max_chunks": chunks}, classes=list(classes)
        )
        self.calls: list[tuple[float, int, Tensor | None]] = []
        self.seen: list[Latents] = []

    def velocity(self, x: Latents, t: Tensor, condition: Condition, given: Tensor | None = None) -> Latents:
        label = torch.zeros(len(x)) if condition.label is None else condition.label
        self.calls.append((float(t), len(x), given))
        self.seen.append(x)

        def velocity(part: Tensor) -> Tensor:
            m = (MEAN + label + 1).reshape(-1, *[1] * (part.ndim - 1)) - 1
            variance = (1 - t) ** 2 * DEVIATION**2 + t**2
            return (t - (1 - t) * DEVIATION**2) / variance * (part - (1 - t) * m) - m

        return x.map(velocity)


def draw(model: LatentGenerator, blank: Latents, condition: Condition, **options: Any) -> Latents:
    return sample(model, condition, blank, generators(len(blank)), SampleOptions(**options))


NOBODY = Condition()


@pytest.mark.parametrize(
    ("solver", "steps", "shift"), [("euler", 200, 1.0), ("heun", 25, 1.0), ("heun", 25, 3.0)]
)
@pytest.mark.parametrize("kind", ["plain", "hybrid"])
def test_samples_are_those_of_the_data(kind, solver, steps, shift):
    blank = latents_of(kind, 64)
    out = draw(Gaussian(shift), blank, NOBODY, steps=steps, solver=solver, guidance_scale=1.0)
    found = [out.grid, out.sequence[:, :, :4]][: len(out.parts)]
    for part in found:
        assert part.mean() == pytest.approx(MEAN, abs=0.03)
        assert part.std() == pytest.approx(DEVIATION, abs=0.02)


def test_unconditional_generators_have_no_guidance():
    model = Gaussian(classes=())
    blank = latents_of("plain", 2)
    guided, plain = (draw(model, blank, NOBODY, steps=3, guidance_scale=g) for g in (4.0, 1.0))
    assert same_latents(guided, plain) and {count for _, count, _ in model.calls} == {2}


def test_heun_is_of_second_order():
    """Against the exact answer: x = m + s ε for the noise ε."""
    blank = latents_of("plain", 4)
    noise = (draw(Gaussian(), blank, NOBODY, steps=400, guidance_scale=1.0).grid - MEAN) / DEVIATION
    errors = {}
    for solver in ("euler", "heun"):
        for steps in (10, 40):
            out = draw(Gaussian(), blank, NOBODY, steps=steps, solver=solver, guidance_scale=1.0)
            errors[solver, steps] = (out.grid - MEAN - DEVIATION * noise).abs().max()
    assert errors["heun", 10] < errors["euler", 40] < errors["euler", 10]
    assert errors["heun", 40] < errors["heun", 10] / 4


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.3, 0.7), (0.4, 0.9)])
@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize(("guidance", "shift"), [(1.0, 1.0), (3.0, 1.0), (3.0, 2.5)])
def test_evaluations_are_counted(interval, solver, guidance, shift):
    """Guidance asks twice a step, where it acts: in noise levels as the model knows them."""
    model = Gaussian(shift)
    options = SampleOptions(10, guidance, interval, solver)
    sample(model, Condition(torch.tensor([0, 0])), latents_of("plain"), generators(2), options)
    assert sum(count for _, count, _ in model.calls) == 2 * nfe(options, model)
    per_step = [count for _, count, _ in model.calls]
    if guidance == 1 or interval == (0.0, 1.0):
        assert {*per_step} == {2 if guidance == 1 else 4}
        assert nfe(options, model) == (1 if guidance == 1 else 2) * (10 if solver == "euler" else 19)
    else:
        assert {*per_step} == {2, 4}
        inside = [interval[0] <= t <= interval[1] for t, _, _ in model.calls]
        assert [count == 4 for count in per_step] == inside


def test_guidance_goes_beyond_the_condition():
    """One step from 1: x - (v₀ + g (v₁ - v₀)); the velocities of two Gaussians differ by their means."""
    blank, condition = latents_of("plain"), Condition(torch.tensor([0, 0]))
    free = draw(Gaussian(), blank, condition.unconditional(), steps=1, guidance_scale=1.0).grid
    for guidance in (0.0, 1.0, 2.5, 4.0):
        out = draw(Gaussian(), blank, condition, steps=1, guidance_scale=guidance)
        torch.testing.assert_close(out.grid, free + guidance)  # the mean without is lower by 1
    other = Condition(torch.tensor([3, 3]))
    negative = sample(Gaussian(), condition, blank, generators(2), SampleOptions(1, 2.0), negative=other)
    torch.testing.assert_close(negative.grid, free + 1 + 3 - 6.0)


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("kind", ["none", "hybrid class"])
@pytest.mark.parametrize("frames", [1, 2])
def test_given_frames_are_kept_at_every_step(kind, frames, solver):
    model, blank, condition = awake(kind), latents_of(kind, chunks=3), condition_of(kind)
    clean = latents_of(kind, chunks=1)
    if blank.has_sequence:
        lengths = torch.cat([clean.lengths, blank.lengths[:, clean.lengths.shape[1] :]], dim=1)
        blank = Latents(blank.grid, torch.zeros(2, CHANNELS, int(lengths.sum(1).max())), lengths)
    known, seen = GivenFrames(clean, frames), []

    def look(step: int, latents: Latents) -> Latents:
        seen.append((step, latents))
        return latents

    options = SampleOptions(4, 2.0, solver=solver)
    out = sample(model, condition, blank, generators(2), options, known, on_step=look)
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    assert same_latents(seen[-1][1], out)
    for _, latents in seen:
        structural, *sequence = latents.parts
        assert torch.equal(structural[:, :, :frames], clean.grid[:, :, :frames])
        for part in sequence:
            for i, count in enumerate(clean.lengths.sum(1).tolist()):
                same = torch.equal(part[i, :, :count], clean.sequence[i, :, :count])
                assert same == (frames == 2), "1D latents are given with the whole chunk"
    free = sample(model, condition, blank, generators(2), options)
    behind = [one.grid[:, :, frames:] for one in (free, out)]
    assert not torch.allclose(*behind, atol=1e-4), "what is given acts on what follows"


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_does_not_depend_on_the_batch(kind):
    model, blank, condition = awake(kind), latents_of(kind, 3), condition_of(kind, 3)
    options = SampleOptions(3, 2.0)
    together = sample(model, condition, blank, generators(3), options)
    for i in range(3):
        part = slice(i, i + 1)
        alone = sample(model, rows(condition, part), collate([blank[i]]), generators(1, i), options)
        torch.testing.assert_close(together[i].parts, alone[0].parts, atol=1e-4, rtol=1e-3)


def test_on_step_may_replace_the_latents():
    blank, where = latents_of("plain"), []

    def to_zero(step: int, latents: Latents) -> Latents:
        where.append(step)
        return latents.map(torch.zeros_like) if step == 2 else latents

    model = Gaussian()
    options = SampleOptions(4, 1.0)
    sample(model, NOBODY, blank, generators(2), options, on_step=to_zero)
    assert where == [0, 1, 2, 3]
    assert not model.seen[3].grid.any()


@pytest.mark.parametrize("kind", ["plain", "hybrid"])
@pytest.mark.parametrize(("most", "chunks"), [(3, 2), (3, 3), (3, 4), (3, 8), (2, 4)])
def test_each_segment_continues_the_last_chunk_of_the_one_before(kind, most, chunks):
    model = Gaussian(chunks=most)
    blanks = partial(latents_of, kind, 2)
    parts = sample_video(model, NOBODY, blanks, chunks, generators(2), SampleOptions(2, 1.0))
    assert sum(part.grid.shape[2] for part in parts) == 2 * chunks
    windows = [
        (latents, given) for latents, (t, _, given) in zip(model.seen, model.calls, strict=True) if t == 1
    ]
    assert len(windows) == len(parts) and windows[0][1] is None
    for (window, given), before in zip(windows[1:], parts, strict=False):
        count = window.grid.shape[2]
        assert count <= 2 * most
        assert given.tolist() == [[True] * 2 + [False] * (count - 2)] * 2
        first, last = window.grid[:, :, :2], before.grid[:, :, -2:]
        assert torch.equal(first, last)
        if window.has_sequence:
            for i in range(2):
                own, length = before[i], int(window.lengths[i, :6].sum())
                assert torch.equal(window.lengths[i, :6], own.lengths[-6:])
                kept = own.sequence[:, own.sequence.shape[1] - length :]
                assert torch.equal(window[i].sequence[:, :length], kept)
    for part in parts:
        if part.has_sequence:
            assert part.lengths.shape[1] == 6 * part.shape[2] // 2


def test_the_shift_changes_the_noise_levels_of_the_steps():
    for shift in (1.0, 3.0):
        model = Gaussian(shift)
        draw(model, latents_of("plain"), NOBODY, steps=4, guidance_scale=1.0)
        wanted = [shift * t / (1 + (shift - 1) * t) for t in (1.0, 0.75, 0.5, 0.25)]
        assert [t for t, _, _ in model.calls] == pytest.approx(wanted)
        assert sampling_schedule(4, model) == pytest.approx([*wanted, 0.0])


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"steps": 0}, "steps .* 0"),
        ({"guidance_scale": -1.0}, "guidance_scale .* -1"),
        ({"guidance_interval": (0.5, 0.5)}, "guidance_interval .* 0.5 and 0.5"),
        ({"guidance_interval": (-0.1, 0.5)}, "guidance_interval .* -0.1"),
    ],
)
def test_impossible_options_raise(changes, wanted):
    with pytest.raises(ValueError, match=wanted):
        SampleOptions(**changes)
