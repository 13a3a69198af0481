"""Latent extension and matching: the overlap lies on the stored path, the seam becomes smaller."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_media import random_chunks, tiny_regen
from torch import Generator, Tensor

from regen import diffusion
from regen.codec.chunks import ChunkLatents
from regen.codec.extension import LatentExtension, offset_correction
from regen.codec.sessions import SOLVERS, DecodeOptions, DecodeSession, Seams
from regen.diffusion import Solver, get_schedule
from regen.embedders.regen import AutoencoderRegen
from regen.latents import Latents
from regen.runtime import generator_for
from regen.tiling import Tile

PER_SOLVER = pytest.mark.parametrize("solver", list(SOLVERS.values()))
EVALUATIONS = {diffusion.euler: lambda steps: steps, diffusion.heun: lambda steps: 2 * steps - 1}


class CorrelatedFrames:
    """Stands for an embedder whose decoder is exact: frames of a stationary Gaussian process.

    Pixels are independent of each other; the same pixel at times i and j (in frames) has the covariance
    STD² CORRELATION^|i - j|. Latents say nothing, so each chunk is a sample of its own.
    """

    STD, CORRELATION = 0.3, 0.9
    temporal_compression_ratio, spatial_compression_ratio, latent_channels, chunk_frames = 4, 8, 1, 5
    denoises = extrapolates = True
    device, dtype = torch.device("cpu"), torch.float32

    def velocity(self, noisy: Tensor, t: Tensor, frames: Tensor) -> Tensor:
        """E[ε - x_0 | x_t] in closed form: x_t has the covariance (1 - t)² C + t² 1."""
        covariance = self.STD**2 * self.CORRELATION ** (frames[:, None] - frames).abs()
        one, t = torch.eye(len(frames)), t[0]
        gain = (t * one - (1 - t) * covariance) @ torch.linalg.inv((1 - t) ** 2 * covariance + t**2 * one)
        return torch.einsum("i j, b c j h w -> b c i h w", gain, noisy)

    def decode(
        self,
        latents: Tensor,
        times: Tensor,
        *,
        steps: int,
        generator: list[Generator],
        solver: Solver,
        tile: Tile | None = None,
        noise: diffusion.Noise | None = None,
    ) -> SimpleNamespace:
        places = latents.shape[-2:]
        start = torch.randn(1, 3, len(times), 8 * places[0], 8 * places[1], generator=generator[0])
        frames = times * self.temporal_compression_ratio
        sample = solver(lambda x, t: self.velocity(x, t, frames), start, get_schedule(steps))
        return SimpleNamespace(sample=sample)

    def encode(self, video: Tensor, *, tile: Tile | None = None) -> None:
        raise AssertionError("nothing is encoded here")

    def activation_bytes(self, frames: int, height: int, width: int) -> int:
        return 0


def jumps_of_correlated_frames(seams: Seams, steps: int, chunks: int = 4) -> tuple[float, float]:
    """Root mean square of the change from frame to frame where two chunks meet, and within chunks.

    The clip is one of `CorrelatedFrames`, in values from -1 to 1. Frames that are neighbours should differ by
    STD (2 - 2 CORRELATION)^½ = 0.134, and do within a chunk, for many steps; independent ones by STD 2^½ =
    0.424, and without extension they do where chunks meet. A few steps draw samples with less variance, which
    makes all jumps smaller.
    """
    options = DecodeOptions(steps=steps, seams=seams)
    session = DecodeSession(CorrelatedFrames(), height=64, width=64, options=options)
    blank = [ChunkLatents(i, Latents.of(torch.zeros(1, 2, 8, 8)), 5) for i in range(chunks)]
    frames = torch.cat([session.feed(chunk) for chunk in blank]).float() / 127.5 - 1
    changes = frames.diff(dim=0).square().flatten(1).mean(1)
    seam = torch.arange(1, len(frames)) % 5 == 0
    return changes[seam].mean().sqrt().item(), changes[~seam].mean().sqrt().item()


@pytest.mark.parametrize("steps", [4, 16, 64])
def test_extension_makes_the_jump_between_chunks_smaller(steps: int) -> None:
    without, inside = jumps_of_correlated_frames("none", steps)
    extended, inside_extended = jumps_of_correlated_frames("extend", steps)
    assert inside < extended < 0.8 * without, "smaller, and not gone, as the paper says"
    assert inside_extended == pytest.approx(inside, rel=0.1), "what is within the chunks stays as it was"
    if steps == 64:
        assert without == pytest.approx(0.3 * 2**0.5, rel=0.05)
        assert inside == pytest.approx(0.3 * 0.2**0.5, rel=0.1)
        assert extended < 0.7 * without


def test_matching_makes_the_jump_between_chunks_smaller() -> None:
    without, inside = jumps_of_correlated_frames("none", 64)
    matched, _ = jumps_of_correlated_frames("match", 64)
    assert inside < matched < 0.7 * without


def fake_velocity(x: Tensor, t: Tensor) -> Tensor:
    """Every frame depends on all others and on the noise level."""
    return torch.sin(3 * x) + x.mean(dim=2, keepdim=True) + t


@PER_SOLVER
@given(steps=st.integers(1, 6), frames=st.integers(2, 6), overlap=st.integers(0, 5), last=st.integers(0, 5))
def test_the_overlap_lies_on_the_stored_path_at_every_evaluation(
    solver: Solver, steps: int, frames: int, overlap: int, last: int
) -> None:
    overlap, last = overlap % frames, last % frames
    seen: list[Tensor] = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x.clone())
        return fake_velocity(x, t)

    first = LatentExtension(solver, last=3)
    first(velocity, torch.randn(1, 3, 4, 2, 2), get_schedule(steps))
    assert len(first.trajectory) == len(seen) == EVALUATIONS[solver](steps)
    assert all(torch.equal(a, x[:, :, 3]) for a, x in zip(first.trajectory, seen, strict=True))
    seen.clear()

    noise = torch.randn(1, 3, frames, 2, 2)
    untouched = noise.clone()
    second = LatentExtension(solver, last, overlap, first.trajectory)
    second(velocity, noise, get_schedule(steps))
    assert torch.equal(noise, untouched)
    assert len(seen) == len(first.trajectory)
    for stored, x in zip(first.trajectory, seen, strict=True):
        assert torch.equal(x[:, :, overlap], stored)
    assert all(torch.equal(a, x[:, :, last]) for a, x in zip(second.trajectory, seen, strict=True))
    others = [i for i in range(frames) if i != overlap]
    assert torch.equal(seen[0][:, :, others], noise[:, :, others]), "all else begins at its own noise"


@PER_SOLVER
def test_with_nothing_stored_it_is_the_plain_solver(solver: Solver) -> None:
    noise, grid = torch.randn(1, 3, 4, 2, 2), get_schedule(5)
    extension = LatentExtension(solver, last=3)
    expected = solver(fake_velocity, noise, grid)
    assert torch.equal(extension(fake_velocity, noise, grid), expected)
    assert torch.equal(extension(fake_velocity, noise, grid), expected), "and can be used again"
    assert len(extension.trajectory) == EVALUATIONS[solver](5)
    held = LatentExtension(solver, last=3, overlap=3, stored=extension.trajectory)
    assert torch.equal(held(fake_velocity, noise, grid), expected), "its own path changes nothing"


@pytest.fixture(scope="module")
def model() -> AutoencoderRegen:
    torch.manual_seed(1)
    return tiny_regen()


def chunks_of(model: AutoencoderRegen, frames: int) -> list[ChunkLatents]:
    return random_chunks(model, frames, (1, 2))


def session_of(model: AutoencoderRegen, seams: Seams, **options: object) -> DecodeSession:
    return DecodeSession(model, height=8, width=16, options=DecodeOptions(seams=seams, **options))


def decoded(model: AutoencoderRegen, chunks: list[ChunkLatents], seams: Seams, **options: object) -> Tensor:
    session = session_of(model, seams, **options)
    return torch.cat(list(session.decode((chunk, None) for chunk in chunks)))


@PER_SOLVER
def test_in_a_session_the_decoder_sees_the_last_frame_of_the_chunk_before(
    model: AutoencoderRegen, monkeypatch: pytest.MonkeyPatch, solver: Solver
) -> None:
    """At all steps, bit for bit: the first of 6 frames is what the last of the chunk before was."""
    seen, forward = [], model.decoder.forward

    def recorded(noisy: Tensor, *others: Tensor | None) -> Tensor:
        seen.append(noisy.clone())
        return forward(noisy, *others)

    monkeypatch.setattr(model.decoder, "forward", recorded)
    decoded(model, chunks_of(model, 13), "extend", steps=4, solver=solver.__name__)
    count = EVALUATIONS[solver](4)
    runs = [seen[start : start + count] for start in range(0, len(seen), count)]
    assert [run[0].shape[2] for run in runs] == [5, 6, 6]
    for before, after in pairwise(runs):
        for a, b in zip(before, after, strict=True):
            assert torch.equal(b[:, :, 0], a[:, :, -1])
            assert not torch.equal(b[:, :, 1], a[:, :, -1])


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_with_one_step_extension_is_left_out(model: AutoencoderRegen, solver: str) -> None:
    chunks = chunks_of(model, 13)
    plain = decoded(model, chunks, "none", solver=solver)
    assert torch.equal(decoded(model, chunks, "extend", solver=solver), plain)
    assert not torch.equal(decoded(model, chunks, "match", solver=solver), plain)
    joined, apart = (decoded(model, chunks, seams, steps=2, solver=solver) for seams in ("extend", "none"))
    assert torch.equal(joined[:5], apart[:5])
    assert not torch.equal(joined[5:], apart[5:])


@pytest.mark.parametrize("seams", ["extend", "match"])
def test_a_chunk_that_does_not_follow_the_last_one_begins_anew(model: AutoencoderRegen, seams: Seams) -> None:
    first, second, third = chunks_of(model, 15)
    session = session_of(model, seams, steps=2)
    session.feed(first)
    alone = decoded(model, [third], seams, steps=2)
    assert torch.equal(session.feed(third), alone), "after a gap"
    assert torch.equal(session.feed(first), decoded(model, [first], seams, steps=2)), "after going back"
    joined = session.feed(second)
    assert not torch.equal(joined, decoded(model, [second], seams, steps=2))
    assert not torch.equal(session.feed(third), alone), "each that follows is joined"
    assert torch.equal(joined, decoded(model, [first, second], seams, steps=2)[5:])
    for end in (session.reset, session.flush):
        session.feed(first)
        end()
        alone = decoded(model, [second], seams, steps=2)
        assert torch.equal(session.feed(second), alone), "after the end of a video"


@given(st.lists(st.floats(-3, 6), max_size=5), st.integers(1, 2))
def test_matching_moves_the_first_frames_only(at: list[float], batch: int) -> None:
    order = sorted({-1.0, 0.0, 1.0, 4.0, *at})
    clip, before = torch.randn(batch, 3, len(order), 2, 2), torch.randn(batch, 3, 2, 2)
    difference = before - clip[:, :, order.index(-1.0)]
    moved = offset_correction(clip, order, difference)
    for i, value in enumerate(order):
        share = 1.0 if value <= -1 else 0.0 if value >= 1 else (1 - value) / 2
        torch.testing.assert_close(moved[:, :, i], clip[:, :, i] + share * difference)
        if value >= 1:
            assert torch.equal(moved[:, :, i], clip[:, :, i])
    half = moved[:, :, order.index(0.0)] - clip[:, :, order.index(0.0)]
    torch.testing.assert_close(half, difference / 2)


@pytest.mark.parametrize("steps", [1, 2])
def test_in_a_session_half_of_the_difference_is_added(model: AutoencoderRegen, steps: int) -> None:
    """The difference is that of the last frame as it was shown and as the next chunk has it, at -1."""
    first, second = chunks_of(model, 10)
    session = session_of(model, "match", steps=steps)
    shown, joined = session.feed(first), session.feed(second, [-1.0, 0.0, 1.0, 2.0, 3.0, 4.0])
    times = torch.tensor([-1.0, 0.0, 1.0, 2.0, 3.0, 4.0]) / 4
    with torch.no_grad():
        clip = model.decode(second.latents.grid[None], times, steps, generator_for(0, 1)).sample[0]
        last = model.decode(first.latents.grid[None], None, steps, generator_for(0, 0)).sample[0, :, -1]
    clip[:, 1] += (last - clip[:, 0]) / 2
    bytes_ = ((clip.clamp(-1, 1) + 1) * 127.5).round().int().permute(1, 2, 3, 0)
    assert torch.equal(joined[2:].int(), bytes_[2:]), "nothing from frame 1 on"
    assert (joined[1].int() - bytes_[1]).abs().max() <= 1
    assert (joined[0].int() - shown[-1].int()).abs().max() <= 1, "at -1 it shows what was shown"
