"""Seams between chunks: latent extension and offset correction.

Both decode a chunk together with the last frame of the chunk before it, at frame offset -1.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from regen.diffusion import Network, Solver

Trajectory = list[Float[Tensor, "b 3 h w"]]  # one frame at every noise level that the solver evaluates


class LatentExtension:
    """Latent extension (REGEN, Sec. 3.4): a solver that keeps one frame on a stored trajectory.

    At every evaluation, frame number `overlap` is replaced by its state at the same noise level when the
    previous chunk was decoded (`stored`), which draws the other frames towards it. After a call, `trajectory`
    is that of frame number `last`, for the next chunk. With one step the two frames share their noise only.
    """

    def __init__(self, solver: Solver, last: int, overlap: int = 0, stored: Trajectory | None = None) -> None:
        self.solver, self.last, self.overlap, self.stored = solver, last, overlap, stored
        self.trajectory: Trajectory = []

    def __call__(self, velocity: Network, noise: Tensor, schedule: list[float]) -> Tensor:
        self.trajectory = []

        def injected(x: Tensor, t: Tensor) -> Tensor:
            x = self._inject(x)
            self.trajectory.append(x[:, :, self.last].clone())
            return velocity(x, t)

        return self.solver(injected, self._inject(noise), schedule)

    def _inject(self, x: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b 3 t h w"]:
        if self.stored is None:
            return x
        x = x.clone()
        x[:, :, self.overlap] = self.stored[len(self.trajectory)]
        return x


def offset_correction(
    clip: Float[Tensor, "b 3 t h w"], offsets: Sequence[float], jump: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, "b 3 t h w"]:
    """Shift the beginning of a chunk towards the last frame of the previous chunk (not in the paper).

    `offsets` are the frames of `clip` counted from the chunk's first. `jump` is the last frame of the chunk
    before minus the same frame as this chunk decodes it; its weight is 1 at -1, 1/2 at 0, and 0 from 1 on.
    """
    weights = torch.tensor([min(1.0, max(0.0, (1 - at) / 2)) for at in offsets], device=clip.device)
    return clip + jump[:, :, None] * weights.to(clip.dtype)[:, None, None]
