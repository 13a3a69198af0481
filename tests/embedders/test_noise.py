"""Initial noise: of each part by its key, whatever is beside it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_networks import seeded, seeded_each

from regen.embedders.noise import initial_noise, time_keys

CPU = torch.device("cpu")


def normal(keys: list[int], generator: object = None, batch: int = 1, length: int = 1) -> torch.Tensor:
    """Noise for several steps, in parts of `length` frames."""
    shape = (batch, 3, length * len(keys), 4, 6)
    return initial_noise(None, 2, shape, keys, generator or seeded(), CPU)


@given(
    st.lists(st.integers(-9, 99), min_size=1, max_size=6, unique=True),
    st.lists(st.integers(-9, 99), max_size=6),
    st.integers(1, 4),
)
def test_a_part_depends_on_its_key_alone(keys: list[int], others: list[int], length: int) -> None:
    """To the bit, whichever keys are beside it, in whatever order."""
    mixed = [*others, *reversed(keys)]
    one, other = normal(keys, length=length), normal(mixed, length=length)
    for number, key in enumerate(keys):
        place = len(mixed) - 1 - mixed[::-1].index(key)
        parts = one[:, :, number * length :][:, :, :length], other[:, :, place * length :][:, :, :length]
        assert torch.equal(*parts)
    assert len({part.sum().item() for part in one.split(length, dim=2)}) == len(keys)


def test_a_clip_depends_on_its_generator_alone() -> None:
    both = normal([0, 5], seeded_each(2, seed=3), batch=2)
    assert torch.equal(both[1:], normal([0, 5], seeded(4)))
    shared, generator = normal([0, 5], seeded(), batch=2), seeded()
    assert torch.equal(shared, torch.cat([normal([0, 5], generator), normal([0, 5], generator)]))
    assert not torch.equal(shared[0], shared[1])
    torch.manual_seed(7)
    everywhere = initial_noise("normal", 1, (1, 3, 2, 4, 6), [0, 5], None, CPU)
    assert torch.equal(everywhere, normal([0, 5], seeded(7))), "by default that of PyTorch"


def test_normal_noise_is_normal() -> None:
    values = initial_noise("normal", 1, (2, 3, 40, 16, 16), range(40), seeded(), CPU)
    assert abs(values.mean()) < 0.02 and abs(values.std() - 1) < 0.02  # five times the error of 61,440 values


@pytest.mark.parametrize(("noise", "steps"), [(None, 1), ("zero", 1), ("zero", 4)])
def test_zero_noise_draws_nothing(noise: str | None, steps: int) -> None:
    generator, before = seeded(), torch.get_rng_state()
    assert not initial_noise(noise, steps, (2, 3, 2, 4, 6), [0, 1], generator, CPU).any()
    assert torch.equal(generator.get_state(), seeded().get_state())
    assert torch.equal(torch.get_rng_state(), before)


def test_times_have_keys() -> None:
    for frames in (5, 9, 13, 33):
        times = torch.linspace(0, 1, frames)
        again = torch.tensor([float(i) for i in range(frames)]) / (frames - 1)
        assert time_keys(times) == time_keys(again) and len({*time_keys(times)}) == frames
    assert time_keys(torch.tensor([-0.25, 0.0, 1.0])) == [-(2**18), 0, 2**20]


def test_wrong_calls_are_rejected() -> None:
    for words, wrong in (
        ("2 clips need one generator, or one each, got 3", {"generator": seeded_each(3)}),
        ("grey", {"noise": "grey"}),
    ):
        arguments = {"noise": "normal", "generator": None} | wrong
        with pytest.raises(Exception, match=words):
            initial_noise(steps=1, shape=(2, 3, 1, 4, 4), keys=[0], device=CPU, **arguments)
