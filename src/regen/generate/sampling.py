"""Sampling of latents from noise."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Generator, Tensor

from regen.diffusion import get_schedule
from regen.generate.generator import LatentGenerator, shift_noise_levels
from regen.generate.inputs import Condition
from regen.latents import Latents, pack

OnStep = Callable[[int, Latents], Latents]
"""Called with the step and the latents after it; returns the latents to continue with."""


@dataclass(frozen=True)
class SampleOptions:
    """Options of sampling."""

    steps: int = 30
    guidance_scale: float = 4.0
    """w in v = v₀ + w (v₁ - v₀), with the unconditional (v₀) and the conditional velocity (v₁); 1 is no
    guidance, at half the cost, and 0 ignores the condition (arXiv 2207.12598)."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Noise levels between which guidance acts (arXiv 2404.07724)."""
    solver: Literal["euler", "heun"] = "euler"

    def __post_init__(self) -> None:
        low, high = self.guidance_interval
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}; 30 is the default.")
        if self.guidance_scale < 0:
            raise ValueError(f"guidance_scale must be >= 0, got {self.guidance_scale}; 1 disables guidance.")
        if not 0 <= low < high <= 1:
            raise ValueError(f"guidance_interval must satisfy 0 <= low < high <= 1, got {low} and {high}.")
        if self.solver not in ("euler", "heun"):
            raise ValueError(f"solver must be euler or heun, got {self.solver!r}.")

    def guides(self, t: float) -> bool:
        """Whether guidance acts at noise level t."""
        low, high = self.guidance_interval
        return self.guidance_scale != 1 and low <= t <= high


@dataclass(frozen=True)
class GivenFrames:
    """Clean latents of the first latent frames of a video: of whole chunks, or of the first frame alone."""

    latents: Latents
    frames: int


@torch.no_grad()
def sample(
    model: LatentGenerator,
    condition: Condition,
    template: Latents,
    generators: list[Generator],
    options: SampleOptions = SampleOptions(),
    given: GivenFrames | None = None,
    negative: Condition | None = None,
    on_step: OnStep = lambda step, latents: latents,
    noise: Latents | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Latents:
    """Latents in fp32, in the shape of `template` (whose values are ignored), one sample per generator.

    Args:
        negative: The condition that guidance moves away from (a negative prompt); by default no condition.
        on_step: May replace the latents after each step.
        noise: Initial noise; by default drawn from the generators.
        should_stop: Checked after each step; the latents so far are returned.
    """
    options, template = applicable_options(options, model), template.to(model.device)
    x = (template.noise(generators) if noise is None else noise).to(model.device, torch.float32)
    clean, mask = _given_latents(model, template, given)
    given_mask = None if given is None else mask.grid[:, 0, :, 0, 0]
    given_twice = None if given_mask is None else given_mask.repeat(2, 1)
    both = condition.concat(negative or condition.unconditional())

    def velocity(x: Latents, t: float) -> Latents:
        level = torch.full((1,), t, device=model.device)
        if not options.guides(t):
            return model.velocity(x, level, condition, given_mask).to(dtype=torch.float32)
        return x.map(lambda _, v: guide(v), model.velocity(x.repeat(2), level, both, given_twice))

    def guide(velocities: Tensor) -> Tensor:
        conditional, unconditional = velocities.float().chunk(2)
        return torch.lerp(unconditional, conditional, options.guidance_scale)

    def put_given(x: Latents) -> Latents:
        return x if given is None else x.map(lambda part, c, m: torch.where(m, c, part), clean, mask)

    x = put_given(x)
    for step, (t, t_next) in enumerate(pairwise(sampling_schedule(options.steps, model))):
        v = velocity(x, t)
        if options.solver == "heun" and t_next > 0:
            v_next = velocity(put_given(_euler_step(x, v, t - t_next)), t_next)
            v = v.map(lambda a, b: (a + b) / 2, v_next)
        x = on_step(step, put_given(_euler_step(x, v, t - t_next)))
        if should_stop():
            break
    return x


def sample_video(
    model: LatentGenerator,
    condition: Condition,
    template: Callable[[int], Latents],
    chunks: int,
    generators: list[Generator],
    options: SampleOptions = SampleOptions(),
    given: GivenFrames | None = None,
    negative: Condition | None = None,
    on_step: OnStep = lambda step, latents: latents,
    noise: Latents | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Latents]:
    """Latents of videos of `chunks` chunks, as segments of consecutive chunks.

    `template(chunks)` has the shape of a segment. A segment has at most as many chunks as in training; each
    one after the first is given the last chunk of the segment before it. `noise` is that of the first
    segment; see `sample` for the rest.
    """
    longest, n = max(1, model.latent_spec.max_chunks), model.latent_spec.chunk_latents
    assert chunks <= longest or longest > 1, "`video_shape` raises"
    run = partial(
        sample, model, condition, options=options, negative=negative, on_step=on_step, should_stop=should_stop
    )
    done = first_chunks = min(chunks, longest)
    first, later = template(done), chunks - done
    seeds: list[list[int]] = []
    if later:  # drawn before the noise, whose amount depends on the batch: that of its longest sample
        seeds = [torch.randint(2**62, (later,), generator=g, device=g.device).tolist() for g in generators]
    if given is not None and given.frames == n:
        first = _with_lengths_of(given.latents, first)
    segments = [run(first, generators, given=given, noise=noise)]
    while done < chunks and not should_stop():
        count = min(chunks - done, longest - 1)
        last = from_frame(segments[-1], -n)
        shape = _with_lengths_of(last, template(1 + count))
        draws = zip(generators, seeds, strict=True)
        own = [Generator(g.device).manual_seed(row[done - first_chunks]) for g, row in draws]
        segments.append(from_frame(run(shape, own, given=GivenFrames(last, n)), n))
        done += count
    return segments


def sampling_schedule(steps: int, model: LatentGenerator) -> list[float]:
    """`steps` + 1 noise levels from 1 to 0, evenly spaced before the shift (see `shift_noise_levels`)."""
    return [shift_noise_levels(t, model.config.timestep_shift) for t in get_schedule(steps)]


def applicable_options(options: SampleOptions, model: LatentGenerator) -> SampleOptions:
    """The options without guidance for an unconditional model, whose two velocities are the same."""
    return options if model.is_conditional else replace(options, guidance_scale=1.0)


def nfe(options: SampleOptions, model: LatentGenerator) -> int:
    """Number of function evaluations per sample: two per velocity where guidance acts."""
    options, levels = applicable_options(options, model), list[float]()
    for t, t_next in pairwise(sampling_schedule(options.steps, model)):
        levels += [t, t_next] if options.solver == "heun" and t_next > 0 else [t]
    return sum(2 if options.guides(t) else 1 for t in levels)


def from_frame(latents: Latents, start: int) -> Latents:
    """The chunks of a batch from latent frame `start` on; negative: counted from the end."""
    grid, regions = latents.grid[:, :, start:], latents.lengths.shape[1]
    first = regions - regions * grid.shape[2] // latents.shape[2]
    parts = [sequence for sequence, _ in latents.regions()][first:]
    return pack(grid, parts, latents.lengths[:, first:])


def _euler_step(x: Latents, velocity: Latents, size: float) -> Latents:
    return x.map(lambda part, v: part - size * v, velocity)


def _given_latents(
    model: LatentGenerator, template: Latents, given: GivenFrames | None
) -> tuple[Latents, Latents]:
    """Clean latents in the shape of `template`, zero where unknown, and the mask of the given values."""
    clean = template.map(lambda part: torch.zeros_like(part, dtype=torch.float32))
    frames = 0 if given is None else given.frames
    given_mask = (torch.arange(template.shape[2], device=model.device) < frames).expand(len(template), -1)
    if given is not None:
        clean.grid[:, :, :frames] = given.latents.grid[:, :, :frames].to(clean.grid)
        values = given.latents.sequence
        clean.sequence[:, :, : values.shape[2]] = values.to(clean.sequence)
    return clean, model.layout.generated_mask(template, given_mask).map(torch.logical_not)


def _with_lengths_of(first: Latents, template: Latents) -> Latents:
    """A template whose first chunk has as many 1D latents as `first`."""
    if not template.has_sequence:
        return template
    lengths = template.lengths.to(first.lengths.device).clone()
    lengths[:, : first.lengths.shape[1]] = first.lengths
    shape = len(lengths), template.sequence.shape[1], int(lengths.sum(1).max())
    return Latents(template.grid, template.sequence.new_zeros(shape), lengths)
