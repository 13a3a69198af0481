"""Latents from noise: classifier-free guidance, given frames, videos longer than those of the training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Generator, Tensor

from regen.diffusion import get_schedule
from regen.generate.conditions import Condition
from regen.generate.generator import LatentGenerator, shift_noise_levels
from regen.latents import Latents, pack

OnStep = Callable[[int, Latents], Latents]  # (number of the step, latents) -> latents to go on with


@dataclass(frozen=True)
class SampleOptions:
    """How latents are sampled."""

    steps: int = 30
    guidance_scale: float = 4.0
    """v = v₀ + g (v₁ - v₀) with the velocities without (v₀) and with (v₁) the condition; 1: no guidance,
    which takes half of the time; 0: the condition is not looked at (arXiv 2207.12598)."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Noise levels between which there is guidance (arXiv 2404.07724)."""
    solver: Literal["euler", "heun"] = "euler"

    def __post_init__(self) -> None:
        low, high = self.guidance_interval
        if self.steps < 1:
            raise ValueError(f"Sampling takes at least 1 step, not {self.steps}; 30 is the default.")
        if self.guidance_scale < 0:
            raise ValueError(f"Guidance is 0 or more, not {self.guidance_scale}; 1 is none, 4 the default.")
        if not 0 <= low < high <= 1:
            raise ValueError(f"Guidance acts between two noise levels from 0 to 1, not {low} and {high}.")
        if self.solver not in ("euler", "heun"):
            raise ValueError(f"There are the solvers euler and heun, not {self.solver!r}.")

    def guides(self, t: float) -> bool:
        """Whether there is guidance at noise level t."""
        low, high = self.guidance_interval
        return self.guidance_scale != 1 and low <= t <= high


@dataclass(frozen=True)
class GivenFrames:
    """Frames that are given: clean latents of the first chunks, or the first latent frame alone."""

    latents: Latents
    frames: int


@torch.no_grad()
def sample(
    model: LatentGenerator,
    condition: Condition,
    blank: Latents,
    generators: list[Generator],
    options: SampleOptions = SampleOptions(),
    known: GivenFrames | None = None,
    without: Condition | None = None,
    on_step: OnStep = lambda step, latents: latents,
    noise: Latents | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Latents:
    """Latents of the shape of `blank` (its values mean nothing), in fp32, one of a batch for each generator.

    `without` takes the place of no condition in guidance (a negative prompt). `on_step` sees and may change
    the latents after each step; `stopped` is asked then whether to leave it at that. `noise` is what to begin
    with, in place of the generators' own. A model without condition has no guidance.
    """
    options = guided(options, model)
    grid, blank = sampling_schedule(options.steps, model.config.timestep_shift), blank.to(model.device)
    x = (blank.noise(generators) if noise is None else noise).to(model.device, torch.float32)
    clean, mask = _given(model, blank, known)
    both = condition.concat(without or condition.unconditional())

    def velocity(x: Latents, t: float) -> Latents:
        level = torch.full((1,), t, device=model.device)
        given = None if known is None else mask.grid[:, 0, :, 0, 0]
        if not options.guides(t):
            return model.velocity(x, level, condition, given).to(dtype=torch.float32)
        given = None if given is None else torch.cat([given, given])
        both_velocities = model.velocity(x.repeat(2), level, both, given)
        return x.map(lambda _, v: guide(v), both_velocities)

    def guide(both_velocities: Tensor) -> Tensor:
        conditional, unconditional = both_velocities.float().chunk(2)
        return torch.lerp(unconditional, conditional, options.guidance_scale)

    def keep(x: Latents) -> Latents:
        return x if known is None else x.map(lambda part, c, m: torch.where(m, c, part), clean, mask)

    x = keep(x)
    for step, (now, after) in enumerate(pairwise(grid)):
        slope = velocity(x, now)
        if options.solver == "heun" and after > 0:
            ahead = keep(_moved(x, slope, now - after))
            slope = slope.map(lambda a, b: (a + b) / 2, velocity(ahead, after))
        x = keep(_moved(x, slope, now - after))
        x = on_step(step, x)
        if stopped():
            break
    return x


def sample_video(
    model: LatentGenerator,
    condition: Condition,
    blank: Callable[[int], Latents],
    chunks: int,
    generators: list[Generator],
    options: SampleOptions = SampleOptions(),
    known: GivenFrames | None = None,
    without: Condition | None = None,
    on_step: OnStep = lambda step, latents: latents,
    noise: Latents | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> list[Latents]:
    """The latents of a video of so many chunks, one batch after another in the order of the chunks.

    `blank(chunks)` makes latents of the right shape. Up to as many chunks as the training had are made at
    once; from then on each part is given the last chunk of the one before it and goes on from there. `noise`
    is what the first part begins with; see `sample` for the rest. Raises ValueError when more are needed
    and the training had only one chunk in a row.
    """
    most, n = max(1, model.latent_spec.max_chunks), model.latent_spec.chunk_latents
    if chunks > most and most < 2:
        raise ValueError(
            f"This generator was trained on one chunk of {model.latent_spec.chunk_frames} frames at a time and "  # noqa: E501
            f"can't go on from it; give at most {model.latent_spec.chunk_frames} frames."
        )
    count = min(chunks, most)
    first, further = blank(count), _seeds(generators, chunks - count)
    if known is not None and known.frames == n:
        first = _after(known.latents, first)
    x = sample(model, condition, first, generators, options, known, without, on_step, noise, stopped)
    parts, done = [x], count
    while done < chunks and not stopped():
        more = min(chunks - done, most - 1)
        last = last_chunk(parts[-1], n)
        own = [
            Generator(g.device).manual_seed(row[done - count])
            for g, row in zip(generators, further, strict=True)
        ]
        x = sample(
            model, condition, _after(last, blank(1 + more)), own, options, GivenFrames(last, n),
            without, on_step, None, stopped,
        )  # fmt: skip
        parts.append(drop_first_chunk(x, n))
        done += more
    return parts


def sampling_schedule(steps: int, shift: float) -> list[float]:
    """`steps` + 1 noise levels from 1 to 0, equally far apart before they are shifted (see `shifted`)."""
    return [shift_noise_levels(t, shift) for t in get_schedule(steps)]


def guided(options: SampleOptions, model: LatentGenerator) -> SampleOptions:
    """The options without guidance for a model without condition, whose two velocities are the same."""
    return options if model.is_conditional else replace(options, guidance_scale=1.0)


def evaluations(options: SampleOptions, model: LatentGenerator) -> int:
    """How often the network sees one sample for a video: with guidance twice a step, inside its interval."""
    options, asked = guided(options, model), list[float]()
    for now, after in pairwise(sampling_schedule(options.steps, model.config.timestep_shift)):
        asked += [now, after] if options.solver == "heun" and after > 0 else [now]
    return sum(2 if options.guides(t) else 1 for t in asked)


def _seeds(generators: Sequence[Generator], count: int) -> list[list[int]]:
    """For each generator so many seeds, drawn before anything whose amount depends on the batch: 1D latents
    draw as many numbers as the longest clip beside them has."""
    draws = (
        [torch.randint(2**62, (count,), generator=g, device=g.device) for g in generators] if count else []
    )
    return [row.tolist() for row in draws] or [[] for _ in generators]


def _moved(x: Latents, slope: Latents, by: float) -> Latents:
    return x.map(lambda part, v: part - by * v, slope)


def _given(model: LatentGenerator, blank: Latents, known: GivenFrames | None) -> tuple[Latents, Latents]:
    """Clean latents of the shape of `blank`, as far as they are known, and the mask of what is known."""
    blank = blank.to(model.device)
    clean = blank.map(lambda part: torch.zeros_like(part, dtype=torch.float32))
    frames = 0 if known is None else known.frames
    given = torch.arange(blank.shape[2], device=model.device) < frames
    mask = model.layout.unknown_masks(blank, given.expand(len(blank), -1)).map(torch.logical_not)
    if known is not None:
        clean.grid[:, :, :frames] = known.latents.grid[:, :, :frames].to(clean.grid)
        values = known.latents.sequence
        clean.sequence[:, :, : values.shape[2]] = values.to(clean.sequence)
    return clean, mask


def last_chunk(latents: Latents, n: int) -> Latents:
    """Of a batch of latents in a row, those of the last chunk of n latent frames."""
    regions = latents.lengths.shape[1]
    return _slice_regions(latents, latents.grid[:, :, -n:], regions - regions * n // latents.shape[2])


def drop_first_chunk(latents: Latents, n: int) -> Latents:
    """Of a batch of latents in a row, all but those of the first chunk of n latent frames."""
    return _slice_regions(latents, latents.grid[:, :, n:], latents.lengths.shape[1] * n // latents.shape[2])


def _slice_regions(latents: Latents, grid: Tensor, start: int) -> Latents:
    """`grid` with the 1D latents of the regions from `start` on."""
    parts = [sequence for sequence, _ in latents.regions()][start:]
    return pack(grid, parts, latents.lengths[:, start:])


def _after(first: Latents, blank: Latents) -> Latents:
    """`blank` latents whose first chunk has as many 1D latents as `first`."""
    if not blank.has_sequence:
        return blank
    lengths = blank.lengths.to(first.lengths.device).clone()
    lengths[:, : first.lengths.shape[1]] = first.lengths
    channels, longest = blank.sequence.shape[1], int(lengths.sum(1).max())
    sequence = blank.sequence.new_zeros(len(lengths), channels, longest)
    return Latents(blank.grid, sequence, lengths)
