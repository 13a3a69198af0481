"""Joining a chunk to the one before it: latent extension, and a correction that acts at one step too.

Both decode the chunk together with one more frame, at -1: the last frame of the chunk before it.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from regen.diffusion import Network, Solver

Trajectory = list[Float[Tensor, "b 3 h w"]]  # one frame at every noise level at which a solver asks


class LatentExtension:
    """Latent extension (REGEN, Sec. 3.4; spec A9): a solver that lays one frame on a stored trajectory.

    At every evaluation frame number `overlap` is replaced by what it was at the same noise level when the
    chunk before was decoded (`stored`), so the others are drawn towards it. Afterwards `trajectory` is that
    of frame number `last`, for the next chunk. With one step the only level is that of the noise: the two
    frames would share their noise and nothing else.
    """

    def __init__(self, solver: Solver, last: int, overlap: int = 0, stored: Trajectory | None = None) -> None:
        self.solver, self.last, self.overlap, self.stored = solver, last, overlap, stored
        self.trajectory: Trajectory = []

    def __call__(self, velocity: Network, noise: Tensor, grid: list[float]) -> Tensor:
        self.trajectory = []

        def held(x: Tensor, t: Tensor) -> Tensor:
            x = self._inject(x)
            self.trajectory.append(x[:, :, self.last].clone())
            return velocity(x, t)

        return self.solver(held, self._inject(noise), grid)

    def _inject(self, x: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b 3 t h w"]:
        if self.stored is None:
            return x
        x = x.clone()
        x[:, :, self.overlap] = self.stored[len(self.trajectory)]
        return x


def offset_correction(
    clip: Float[Tensor, "b 3 t h w"], order: Sequence[float], before: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, "b 3 t h w"]:
    """Move the beginning of a chunk towards the frame that was shown `before` it (not in the paper).

    `order` are the frames of `clip`, counted from the chunk's first, with -1 among them. What the clip has at
    -1 differs from `before`; all of this difference is added at -1, half of it at 0, nothing from 1 on.
    """
    difference = before - clip[:, :, order.index(-1.0)]
    weights = torch.tensor([min(1.0, max(0.0, (1 - at) / 2)) for at in order], device=clip.device)
    return clip + difference[:, :, None] * weights.to(clip.dtype)[:, None, None]
