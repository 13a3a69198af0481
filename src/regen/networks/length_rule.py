"""How many 1D latents a clip gets: more where more moves (One-DVA; spec B4)."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor
from torch.nn import functional as F

LengthMode = Literal["full", "motion", "uniform", "pow2"]
EPS = 1e-4  # added to motions before their logarithms are taken: a still picture has 0


def motion(clip: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
    """Mean difference between neighbouring frames, of pictures with values from 0 to 1 (spec B4).

    `clip` is in [-1, 1]. Pictures are averaged over 4 x 4 pixels first, which takes out noise. Frames count
    as they follow each other, whatever the frame rate: what has to be told is what changes in a chunk of so
    many frames. 0 for a single frame.
    """
    b, _, t, _, _ = clip.shape
    if t == 1:
        return clip.new_zeros(b, dtype=torch.float32)
    sides = (0, -clip.shape[4] % 4, 0, -clip.shape[3] % 4, 0, 0)
    small = F.avg_pool3d(F.pad(clip.float(), sides, mode="replicate"), (1, 4, 4))
    return (small[:, :, 1:] - small[:, :, :-1]).abs().flatten(1).mean(1) / 2


@dataclass(frozen=True)
class MotionLengthRule:
    """From the motion of a clip to the number of its 1D latents, of at most a budget.

    `step`: lengths are multiples of it (or the budget). `least`: the share of the budget that a clip without
    motion gets; `image`: that of a single image. `motion_range`: between these two motions the share rises
    with the logarithm; they are the 5 % and 95 % quantiles of the training clips.
    """

    multiple: int
    min_ratio: float
    image_ratio: float
    motion_range: tuple[float, float]

    def score(self, motion: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """0 for a clip that hardly moves, 1 for one that moves as much as the liveliest (spec B4)."""
        low, high = (math.log(value + EPS) for value in self.motion_range)
        return (((motion + EPS).log() - low) / (high - low)).clamp(0, 1)

    def share(self, motion: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The share of the budget that a clip with this motion gets."""
        return self.min_ratio + (1 - self.min_ratio) * self.score(motion)

    def rounded(self, length: Float[Tensor, "..."], budget: int) -> Int64[Tensor, "..."]:
        """The nearest multiple of `step` from 0 to the budget; the budget itself may be none."""
        steps = torch.round(length / self.multiple) * self.multiple
        full = length > max(budget - self.multiple / 2, budget / 2)
        return torch.where(full, budget, steps.clamp(0, budget)).long()

    def max_length(self, clip: Float[Tensor, "b 3 t h w"], budget: int) -> Int64[Tensor, " b"]:
        """L_max of each clip (spec B4)."""
        still = clip.shape[2] == 1
        shares = torch.full_like(clip[:, 0, 0, 0, 0], self.image_ratio, dtype=torch.float32)
        return self.rounded(budget * (shares if still else self.share(motion(clip))), budget)

    def sample(
        self,
        clip: Float[Tensor, "b 3 t h w"],
        budget: int,
        generators: list[Generator],
        mode: LengthMode,
        keep_all_prob: float,
    ) -> Int64[Tensor, " b"]:
        """Lengths for training: of L_max with a probability of `keep_all_prob`, else shorter (tail dropout).

        `"motion"`: L_max follows the motion, and a shorter length is uniform from 0 to it. `"uniform"`: the
        same with the budget in place of L_max. `"pow2"`: the budget, divided by 1, 2, 4 and so on, rounded.
        `"full"`: always the budget. One draw for each clip, from its own generator.
        """
        if mode == "full":
            return torch.full((len(clip),), budget, device=clip.device)
        draws = torch.stack([torch.rand(2, generator=each, device=each.device) for each in generators])
        keep, part = draws.to(clip.device).unbind(1)
        most = torch.full_like(keep, budget)
        if mode == "motion":
            most = self.max_length(clip, budget).float()
        if mode == "pow2":
            halvings = math.floor(math.log2(max(1, budget)))
            shorter = budget / 2 ** (part * (halvings + 1)).floor()
        else:
            shorter = part * (most + self.multiple) // self.multiple * self.multiple
        shorter = torch.minimum(self.rounded(shorter, budget).float(), most)
        return torch.where(keep < keep_all_prob, most, shorter).long()
