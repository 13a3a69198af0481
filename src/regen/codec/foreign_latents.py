"""Latents that other programs wrote: tensors of diffusers' pipelines, and ComfyUI's .latent files.

Diffusers' pipelines return normalised latents with `output_type="latent"`, "b c n y x", CogVideoX's
"b n c y x", those of LTX-2 without normalisation, and Cosmos' at the scale of their scheduler (diffusers
0.42); people save them by `safetensors.torch.save_file` or `torch.save`. ComfyUI stores what its VAE encoded
as `latent_tensor` in a safetensors file: raw, but normalised by the VAEs of LTX and Cosmos themselves.
"""

import warnings
from fractions import Fraction
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from regen.codec.latent_file import KEY, LatentVideo
from regen.embedders.frozen_encoder import LatentSpace
from regen.latents import Latents

COMFYUI, COMFYUI_VERSION = "latent_tensor", "latent_format_version_0"
COMFYUI_OLD_SCALE = 1 / 0.18215  # of files without that version
SUFFIXES = (".safetensors", ".latent", ".pt", ".pth")
FRAMES_FIRST = ("AutoencoderKLCogVideoX",)  # classes whose pipelines return latents as "b n c y x"
RAW = ("AutoencoderKLLTX2Video",)  # whose pipelines return them without normalisation
NORMALISED_BY_COMFYUI = ("AutoencoderKLLTXVideo", "AutoencoderKLLTX2Video", "AutoencoderKLCosmos")
SCALES = {"AutoencoderKLCosmos": 0.5}  # normalised and multiplied by this, the scheduler's sigma_data


def is_foreign(path: Path) -> bool:
    """Whether a file may hold latents of another program, and is none of `regen encode`."""
    if path.suffix not in SUFFIXES or not path.is_file():
        return False
    if path.suffix in (".pt", ".pth"):
        return True
    try:
        with safe_open(path, framework="pt") as file:
            return KEY not in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def read_foreign(
    path: Path, space: LatentSpace, name: str, weights: str, frame_rate: Fraction
) -> LatentVideo:
    """The latents of one video in a file, as those of `space`; frames follow each other at `frame_rate`.

    Raises ValueError when there are none, several videos, or latents of another shape.
    """
    tensor, of_comfyui = read_tensor(path)
    latents, kind = _arrange(path, tensor, space), space.encoder_class
    if kind not in NORMALISED_BY_COMFYUI if of_comfyui else kind in RAW:
        latents = space.normalise(latents)
    elif kind in SCALES:
        latents = latents / SCALES[kind]
    side, ratio = space.spatial_compression_ratio, space.temporal_compression_ratio
    frames = 1 + ratio * (latents.shape[2] - 1)
    height, width = (side * length for length in latents.shape[-2:])
    return LatentVideo(
        latents=Latents.of(latents),
        times=torch.arange(frames, dtype=torch.float64) / float(frame_rate),
        height=height,
        width=width,
        source_height=height,
        source_width=width,
        frame_rate=frame_rate,
        model=name,
        weights=weights,
        is_sequence=True,
    )


def read_tensor(path: Path) -> tuple[Tensor, bool]:
    """The latents of a file, and whether ComfyUI wrote it. Raises ValueError without any."""
    try:
        if path.suffix in (".pt", ".pth"):
            with warnings.catch_warnings(action="ignore"):
                loaded = torch.load(path, map_location="cpu", weights_only=True)
            found = loaded if isinstance(loaded, dict) else {"latents": loaded}
        else:
            with safe_open(path, framework="pt") as file:
                found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except Exception:  # of many kinds: the parts of a pickle can be anything
        raise ValueError(f"{path} is damaged or holds no latents; save them again.") from None
    if COMFYUI in found:
        scale = 1.0 if COMFYUI_VERSION in found else COMFYUI_OLD_SCALE
        return found[COMFYUI].float() * scale, True
    tensors = {key: value for key, value in found.items() if isinstance(value, Tensor) and value.ndim >= 3}
    named = [value for key, value in tensors.items() if key in ("latents", "samples")] or [*tensors.values()]
    if len(named) != 1:
        raise ValueError(
            f"{path} must hold one tensor of latents, named latents or alone, got {', '.join(found)}."
        )
    return named[0], False


def _arrange(path: Path, tensor: Tensor, space: LatentSpace) -> Float[Tensor, "1 c n y x"]:
    """One video in our order of dimensions. Raises ValueError for other shapes."""
    channels, shape = space.latent_channels, " x ".join(map(str, tensor.shape))
    of = f"latents of {space.encoder or 'this decoder'} with {channels} channels"
    if tensor.ndim == 3:
        raise ValueError(f"{path} holds packed tokens ({shape}); unpack them to b c n y x before saving.")
    if tensor.ndim == 4:
        tensor = tensor[None] if tensor.shape[0] == channels else tensor[:, :, None]
    frames_first = tensor.ndim == 5 and channels not in tensor.shape[1:2]
    if tensor.ndim == 5 and (frames_first or space.encoder_class in FRAMES_FIRST):
        tensor = tensor.transpose(1, 2) if tensor.shape[2] == channels else tensor
    if tensor.ndim != 5 or tensor.shape[1] != channels or not tensor.is_floating_point():
        raise ValueError(f"{path} must hold {of}, as b c n y x, got {shape}.")
    if len(tensor) != 1:
        raise ValueError(f"{path} holds {len(tensor)} videos; save the latents of each in a file of its own.")
    if not tensor.isfinite().all():
        raise ValueError(
            f"{path} holds values that are not finite; generate the latents in a higher precision."
        )
    return tensor
