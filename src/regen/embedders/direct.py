"""DirectAutoencoder: an embedder whose decoder gives all frames in one pass, without noise."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Generator, Tensor

from regen.diffusion import Noise, Solver
from regen.embedders.base import VideoAutoencoder
from regen.networks.linear import blend_frames
from regen.tiling import Tile


class DirectAutoencoder(VideoAutoencoder):
    """An embedder whose decoder gives the encoded frames in one pass, without noise.

    Between two encoded frames `decode` gives their linear blend; before the first and after the last it is
    constant. `steps`, `generator`, `solver` and `noise` have no effect on it.
    """

    _decode_frames: Callable[[Tensor, Tile | None], Tensor]  # (latents, tile) -> all frames

    def _decode(
        self,
        latents: Float[Tensor, "b c n y x"],
        times: Float[Tensor, " t"] | None,
        steps: int,
        generator: Generator | list[Generator] | None,
        solver: Solver,
        tile: Tile | None,
        noise: Noise | None,
    ) -> Float[Tensor, "b 3 t h w"]:
        sample = self._decode_frames(latents, tile)
        return sample if times is None else blend_frames(sample, times * (sample.shape[2] - 1))
