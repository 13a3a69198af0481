"""MotionLengthRule: the number of 1D latents of a clip from its motion."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor
from torch.nn import functional as F

LengthMode = Literal["full", "motion", "none"]
EPS = 1e-4  # added to motions before the logarithm, because a still clip has 0


def motion(clip: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
    """Mean absolute difference of neighbouring frames, for pixel values in [0, 1]; 0 for a single frame.

    `clip` is in [-1, 1]. Frames are averaged over 4 x 4 pixels first, which suppresses noise. The frame rate
    has no influence: latents encode what changes between the frames of a chunk.
    """
    b, _, t, _, _ = clip.shape
    if t == 1:
        return clip.new_zeros(b, dtype=torch.float32)
    sides = (0, -clip.shape[4] % 4, 0, -clip.shape[3] % 4, 0, 0)
    small = F.avg_pool3d(F.pad(clip.float(), sides, mode="replicate"), (1, 4, 4))
    return (small[:, :, 1:] - small[:, :, :-1]).abs().flatten(1).mean(1) / 2


@dataclass(frozen=True)
class MotionLengthRule:
    """From the motion of a clip to the number of its 1D latents within a budget (docs/method.md, 16)."""

    multiple: int = 16
    """Lengths are multiples of it, or the budget."""
    min_ratio: float = 0.125
    """Share of the budget for a clip without motion."""
    image_ratio: float = 0.5
    """Share of the budget for an image."""
    motion_range: tuple[float, float] = (0.0005, 0.03)
    """The motions between which the share rises with the logarithm: 5 % and 95 % quantiles of the training
    clips (benchmarks/motion.py); these are of 256 x 256 crops of the clips of the small models."""

    def __post_init__(self) -> None:
        low, high = self.motion_range
        if self.multiple < 1:
            raise ValueError(f"length_rule.multiple must be >= 1, got {self.multiple}.")
        for name in ("min_ratio", "image_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"length_rule.{name} must lie in [0, 1], got {getattr(self, name)}.")
        if not 0 < low < high:
            raise ValueError(f"length_rule.motion_range must be positive and rising, got {low} to {high}.")

    def share(self, motion: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Share of the budget for a clip with this motion: from `min_ratio` to 1 over `motion_range`."""
        low, high = (math.log(value + EPS) for value in self.motion_range)
        score = (((motion + EPS).log() - low) / (high - low)).clamp(0, 1)
        return self.min_ratio + (1 - self.min_ratio) * score

    def rounded(self, length: Float[Tensor, "..."], budget: int) -> Int64[Tensor, "..."]:
        """The nearest multiple of `multiple` from 0 to the budget, or the budget itself if that is nearer."""
        steps = torch.round(length / self.multiple) * self.multiple
        full = length > max(budget - self.multiple / 2, budget / 2)
        return torch.where(full, budget, steps.clamp(0, budget)).long()

    def max_length(self, clip: Float[Tensor, "b 3 t h w"], budget: int) -> Int64[Tensor, " b"]:
        """L_max of each clip."""
        if clip.shape[2] == 1:
            shares = torch.full_like(clip[:, 0, 0, 0, 0], self.image_ratio, dtype=torch.float32)
        else:
            shares = self.share(motion(clip))
        return self.rounded(budget * shares, budget)

    def sample(
        self,
        clip: Float[Tensor, "b 3 t h w"],
        budget: int,
        generators: list[Generator],
        mode: LengthMode,
        keep_all_prob: float,
    ) -> Int64[Tensor, " b"]:
        """Lengths for training: the budget ("full"; "none": it is 0), or tail dropout ("motion").

        With tail dropout a clip keeps L_max with probability `keep_all_prob`, else a length that is uniform
        from 0 to L_max, drawn by the clip's own generator.
        """
        if mode != "motion":
            return torch.full((len(clip),), budget, device=clip.device)
        draws = torch.stack([torch.rand(2, generator=each, device=each.device) for each in generators])
        chance, part = draws.to(clip.device).unbind(1)
        longest = self.max_length(clip, budget).float()
        shorter = part * (longest + self.multiple) // self.multiple * self.multiple
        shorter = torch.minimum(self.rounded(shorter, budget).float(), longest)
        return torch.where(chance < keep_all_prob, longest, shorter).long()
