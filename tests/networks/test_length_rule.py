"""Motion, the length rule, and tail dropout."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tiny_networks import seeded, seeded_each

from regen.networks.length_rule import MotionLengthRule, motion

RANGE = (0.0005, 0.03)
RULE = MotionLengthRule(multiple=4, min_ratio=0.125, image_ratio=0.5, motion_range=RANGE)
SIZES = st.tuples(st.integers(2, 6), st.integers(1, 13), st.integers(1, 13))
MOTIONS = st.floats(0, 2)
STEPS, BUDGETS = st.integers(1, 20), st.integers(1, 400)


def waves(shift: float, frames: int = 5, height: int = 16, width: int = 48) -> torch.Tensor:
    """A wave of 96 pixels that moves `shift` pixels a frame."""
    along = torch.arange(width) - shift * torch.arange(frames)[:, None]
    return (along * 2 * math.pi / 96).sin()[None, None, :, None].expand(1, 3, -1, height, -1)


@given(st.lists(st.floats(0, 12), min_size=2, max_size=6))
def test_motion_rises_with_a_shift(shifts):
    shifts = torch.tensor(shifts).sort().values
    rises = torch.cat([motion(waves(shift.item())) for shift in shifts]).diff()
    assert (rises > -1e-6).all()
    assert (rises > 0)[shifts.diff() > 0.01].all()


@given(SIZES)
def test_a_still_clip_has_no_motion(size):
    picture = torch.rand(2, 3, 1, *size[1:]) * 2 - 1
    assert motion(picture.expand(-1, -1, size[0], -1, -1)).tolist() == [0, 0]
    assert motion(picture).tolist() == [0, 0]


@given(SIZES, st.floats(-2, 2))
def test_motion_is_the_difference_of_pictures_from_0_to_1(size, step):
    """Whatever the size: a border that is no multiple of 4 counts as the rest does."""
    clip = torch.rand(1, 3, 1, *size[1:]) + step * torch.arange(size[0]).reshape(-1, 1, 1)
    torch.testing.assert_close(motion(clip), torch.tensor([abs(step) / 2]), atol=1e-5, rtol=1e-4)


@given(SIZES, st.floats(0, 2))
def test_motion_scales_with_contrast_and_is_the_same_backwards_and_alone(size, gain):
    clip = torch.rand(2, 3, *size) * 2 - 1
    torch.testing.assert_close(motion(gain * clip), gain * motion(clip), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(motion(clip.flip(2)), motion(clip))
    torch.testing.assert_close(motion(clip[1:]), motion(clip)[1:])
    assert motion(clip.bfloat16()).dtype == motion(clip.bfloat16()[:, :, :1]).dtype == torch.float32


def test_motion_resists_noise_of_single_pixels():
    noise = torch.randn(1, 3, 9, 32, 32, generator=seeded()) * 0.05
    plain = (noise[:, :, 1:] - noise[:, :, :-1]).abs().mean() / 2
    assert motion(noise) < 0.3 * plain
    moving = waves(4, 9, 32, 32)
    assert abs(motion(moving + noise) / motion(moving) - 1) < 0.1


@given(st.lists(MOTIONS, min_size=1, max_size=20))
def test_the_share_rises_from_its_minimum_to_1(values):
    share = RULE.share(torch.tensor(values).sort().values)
    assert (share >= 0.125 - 1e-6).all() and (share <= 1 + 1e-6).all()
    assert (share.diff() >= 0).all()
    assert (RULE.share(torch.linspace(*RANGE, 30)).diff() > 0).all()
    ends = RULE.share(torch.tensor([0, RANGE[0], RANGE[1], 1.0]))
    torch.testing.assert_close(ends, torch.tensor([0.125, 0.125, 1, 1]), atol=1e-5, rtol=0)


@given(STEPS, BUDGETS, st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_lengths_are_multiples_of_the_step_or_the_budget_itself(step, budget, shares):
    rule = MotionLengthRule(step, 0.0, 0.0, RANGE)
    wanted = budget * torch.tensor([0.0, *shares, 1.0]).sort().values
    found = rule.rounded(wanted, budget)
    assert ((found % step == 0) | (found == budget)).all()
    assert (found >= 0).all() and (found <= budget).all()
    assert ((found - wanted).abs() <= step / 2 + 1e-4).all()
    assert (found.diff() >= 0).all()
    assert found[-1] == budget


@given(STEPS, BUDGETS, st.floats(0, 1), st.floats(0, 12))
def test_max_length_lies_between_the_minimum_and_the_budget(step, budget, least, shift):
    rule = MotionLengthRule(step, least, 0.5, RANGE)
    clips = torch.cat([waves(0), waves(shift), waves(12)])
    still, some, lively = rule.max_length(clips, budget).tolist()
    assert still <= some <= lively == budget
    assert still == rule.rounded(torch.tensor(budget * least), budget)
    (image,) = MotionLengthRule(step, 0.9, least, RANGE).max_length(clips[:1, :, :1], budget)
    assert image == still, "an image has a share of its own"


COUNT = 1500


def drawn(
    rule: MotionLengthRule, budget: int, mode: str, keep_all_prob: float, clip: torch.Tensor
) -> torch.Tensor:
    clips = clip.expand(COUNT, -1, -1, -1, -1)
    return rule.sample(clips, budget, seeded_each(COUNT), mode, keep_all_prob)


def shares_of(lengths: torch.Tensor) -> dict[int, float]:
    values, counts = lengths.unique(return_counts=True)
    return dict(zip(values.tolist(), (counts / len(lengths)).tolist(), strict=True))


@pytest.mark.parametrize("keep_all_prob", [0.0, 0.5, 1.0])
def test_dropped_lengths_are_uniform_up_to_max_length(keep_all_prob):
    for clip, budget, longest in ((waves(0, 2, 4, 4), 96, 12), (waves(12, 2, 4, 4), 24, 24)):
        assert int(RULE.max_length(clip, budget)) == longest
        assert shares_of(drawn(RULE, budget, "full", 0.0, clip)) == {budget: 1.0}
        found = shares_of(drawn(RULE, budget, "motion", keep_all_prob, clip))
        chance = (1 - keep_all_prob) / (longest // 4 + 1)
        expected = {
            length: chance + keep_all_prob * (length == longest) for length in range(0, longest + 1, 4)
        }
        assert all(abs(found.get(length, 0) - share) < 0.04 for length, share in expected.items())
        assert found.keys() <= expected.keys()


@example(rule=MotionLengthRule(16, 0.5, 0.5, RANGE), budget=20, keep_all_prob=0.0, shift=0.0)
@given(
    rule=st.builds(MotionLengthRule, STEPS, st.floats(0, 1), st.floats(0, 1), st.just(RANGE)),
    budget=BUDGETS,
    keep_all_prob=st.floats(0, 1),
    shift=st.floats(0, 12),
)
def test_sampled_lengths_stay_within_max_length(rule, budget, keep_all_prob, shift):
    clips = waves(shift, 2, 4, 4).expand(20, -1, -1, -1, -1)
    found = rule.sample(clips, budget, seeded_each(20), "motion", keep_all_prob)
    longest = int(rule.max_length(clips, budget)[0])
    assert found.dtype == torch.int64
    assert (found >= 0).all() and (found <= longest).all()
    assert ((found % rule.multiple == 0) | (found == budget)).all()


@pytest.mark.parametrize("mode", ["full", "motion"])
@pytest.mark.parametrize("frames", [1, 3])
def test_each_length_depends_on_its_own_generator_only(mode, frames):
    clips = torch.cat([waves(i / 8, frames, 5, 9) for i in range(12)])
    whole = RULE.sample(clips, 100, seeded_each(12), mode, 0.3)
    first, rest = seeded_each(12)[:5], seeded_each(12)[5:]
    split = [RULE.sample(part, 100, own, mode, 0.3) for part, own in ((clips[:5], first), (clips[5:], rest))]
    assert torch.equal(whole, torch.cat(split))
    turned = RULE.sample(clips.flip(0), 100, seeded_each(12)[::-1], mode, 0.3)
    assert torch.equal(whole.flip(0), turned)
