"""A decoder in place of a diffusers autoencoder's own, for pipelines."""

import copy
from types import MethodType
from typing import Any, NoReturn

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Generator, Tensor, nn

from regen.embedders.frozen_encoder import adapter_class, encoder_hash
from regen.embedders.model import DecoderOutput
from regen.tiling import Tile


def wrapped(vae: Any, decoder: Any, steps: int = 1) -> Any:
    """A copy of `vae`, which shares its encoder, that decodes by the RegenDecoder `decoder` in `steps` steps.

    It has the class of `vae`, so that all pipelines take it; its `decode` is that of the copy alone. The
    decoder is moved to the device and the precision of `vae`. Raises ValueError unless it is one for the
    latents of `vae`.
    """
    if not isinstance(vae, nn.Module):
        raise ValueError(f"wrap takes the autoencoder of a pipeline (pipe.vae), got {type(vae).__name__}.")
    if any(parameter.is_meta for parameter in vae.parameters()):
        raise ValueError("Wrap the autoencoder before its weights are offloaded one by one.")
    adapter_class(vae)
    decoder.check_encoder(type(vae).__name__, encoder_hash(vae))
    decoder = decoder.to(vae.device)
    decoder = decoder if decoder.dtype == vae.dtype else decoder.to(vae.dtype)
    result: Any = copy.copy(vae)
    result._modules = {**vae._modules, "decoder": decoder}
    for name in ("forward", "_old_forward"):  # of hooks of `vae` itself
        vars(result).pop(name, None)
    result.decoding_steps = steps
    result.decode = MethodType(_decode, result)
    result.save_pretrained = MethodType(_refuse_to_save, result)
    return result.eval().requires_grad_(False)


@apply_forward_hook
def _decode(
    vae: Any,
    z: Tensor,
    *timestep: Any,
    return_dict: bool = True,
    generator: Generator | list[Generator] | None = None,
    **options: Any,
) -> DecoderOutput | tuple[Tensor]:
    """Frames of raw latents "b c n y x", as the pipelines give them; a `timestep` is not used.

    Raises ValueError for latents of another shape.
    """
    model = vae.decoder
    model.use_slicing = vae.use_slicing
    latents = model.normalise(z.to(model.device))
    model.frames_dtype = z.dtype  # so that they are not held twice
    try:
        frames = model.decode(latents, steps=vae.decoding_steps, generator=generator, tile=_tile(vae)).sample
    finally:
        model.frames_dtype = torch.float32
    return DecoderOutput(sample=frames) if return_dict else (frames,)


def _tile(vae: Any) -> Tile | None:
    """The tiles of `enable_tiling`, which has strides, or the share of a tile that overlaps the next."""
    if not vae.use_tiling:
        return None
    sides, overlaps = [], []
    for name in ("height", "width"):
        side = int(getattr(vae, f"tile_sample_min_{name}"))
        share = getattr(vae, f"tile_overlap_factor_{name}", getattr(vae, "tile_overlap_factor", 0))
        stride = getattr(vae, f"tile_sample_stride_{name}", side - side * share)
        sides.append(side)
        overlaps.append(int(side - stride))
    return Tile(sides[0], sides[1], min(*sides, 2 * max(overlaps)) // 2)


def _refuse_to_save(vae: Any, *args: Any, **options: Any) -> NoReturn:
    raise ValueError(
        "A wrapped autoencoder is not saved: save the pipeline with its own, and wrap it after loading."
    )
