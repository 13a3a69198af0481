"""A decoder in place of a diffusers autoencoder's own, for pipelines."""

import copy
from typing import Any

from jaxtyping import Float
from torch import Generator, Tensor, nn

from regen.embedders.frozen_encoder import FrozenEncoder, adapter_of
from regen.embedders.model import DecoderOutput
from regen.tiling import Tile


class DecodesByRegen:
    """The `decode` of a wrapped autoencoder; all else is that of its class."""

    decoder: Any  # a RegenDecoder
    decoding_steps: int = 1

    def decode(
        self,
        z: Float[Tensor, "b c n y x"],
        *timestep: Any,
        return_dict: bool = True,
        generator: Generator | list[Generator] | None = None,
        **options: Any,
    ) -> DecoderOutput | tuple[Tensor]:
        """Frames of raw latents, as the pipelines give them; a `timestep` is not used.

        Tiles are those of `enable_tiling`.
        """
        model = self.decoder
        model.use_slicing = getattr(self, "use_slicing", False)
        latents = model.normalise(z.to(model.device))
        frames = model.decode(
            latents, steps=self.decoding_steps, generator=generator, tile=self._tile()
        ).sample
        return DecoderOutput(sample=frames.to(z.dtype)) if return_dict else (frames.to(z.dtype),)

    def _tile(self) -> Tile | None:
        if not getattr(self, "use_tiling", False):
            return None
        sides = [int(getattr(self, f"tile_sample_min_{side}", 512)) for side in ("height", "width")]
        strides = [
            int(getattr(self, f"tile_sample_stride_{name}", side * 7 // 8))
            for name, side in zip(("height", "width"), sides, strict=True)
        ]
        overlap = max(side - stride for side, stride in zip(sides, strides, strict=True))
        return Tile(sides[0], sides[1], overlap)


def wrapped(vae: Any, decoder: Any, steps: int = 1) -> Any:
    """A copy of `vae`, which shares its encoder, that decodes by the RegenDecoder `decoder` in `steps` steps.

    It is an instance of the class of `vae`, so that pipelines take it. Raises ValueError unless the
    decoder is one for its latents.
    """
    if not isinstance(vae, nn.Module):
        raise ValueError(f"wrap takes the autoencoder of a pipeline (pipe.vae), got {type(vae).__name__}.")
    decoder.attach_encoder(
        FrozenEncoder(adapter_of(copy.copy(vae), decoder.chunk_frames), type(vae).__name__)
    )
    result = copy.copy(vae)
    result.__class__ = type(f"{type(vae).__name__}WithRegenDecoder", (DecodesByRegen, type(vae)), {})
    result._modules = dict(vae._modules)
    result.decoder = decoder.to(vae.device).eval()
    if decoder.dtype != vae.dtype:
        result.decoder = decoder.to(vae.dtype)
    vars(result)["decoding_steps"] = steps
    return result.requires_grad_(False)
