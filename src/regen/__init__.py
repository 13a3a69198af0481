"""Generative video embedders: few latents per clip, and a diffusion decoder.

Words, used everywhere in the package
    clip            frames as a tensor `b c t h w`, RGB in [-1, 1]
    chunk           the k + 1 frames that are encoded together
    content latent  z_c, the appearance of the first frame of a chunk
    motion latent   z_m, the changes in the rest of the chunk
    structural      latents of One-DVA in a grid, one for each patch of frames and pixels
    1D latents      latents of One-DVA in an ordered sequence, as many as a clip needs
    region          a part of the picture with 1D latents of its own
    ratio           k, the frames of a chunk after its first one: 4, 8, 16 or 32
    times           τ, positions of frames in units of a chunk: 0 the first frame, 1 the last, any real number
    noise level     t, 0 is data and 1 is noise
    steps           denoising steps of the decoder; 1 is the default

Letters of the shapes
    b  clips in a batch      t  frames             h w  height and width, in pixels or in latents
    c  channels              n  latents or tokens  d    width of a token
    s  1D latents            r  regions            m    moments: means, and log variances where there are any

The public classes load on first use, so that `import regen` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from regen.public import MODULES

if TYPE_CHECKING:
    from regen.embedders.linear import AutoencoderLinear
    from regen.embedders.magvit2 import AutoencoderMagvit2
    from regen.embedders.one_dva import AutoencoderOneDVA
    from regen.embedders.regen import AutoencoderRegen
    from regen.embedders.regen_decoder import RegenDecoder
    from regen.generate.generator import LatentGenerator
    from regen.generate.pipeline import RegenTextToVideoPipeline

__version__ = "0.1.0"
__all__ = [
    "AutoencoderLinear",
    "AutoencoderMagvit2",
    "AutoencoderOneDVA",
    "AutoencoderRegen",
    "LatentGenerator",
    "RegenDecoder",
    "RegenTextToVideoPipeline",
    "__version__",
]
# A pipeline of diffusers loads models only from packages that have their base class as well.
LAZY = MODULES | {"ModelMixin": "diffusers"}


def __getattr__(name: str) -> object:
    if name in LAZY:
        return getattr(import_module(LAZY[name]), name)
    raise AttributeError(f"module 'regen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
