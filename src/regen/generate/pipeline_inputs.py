"""What a pipeline is called with, in the many forms that diffusers' users give it, in one form each."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from einops import rearrange
from jaxtyping import UInt8
from torch import Generator, Tensor

from regen.generate.video_generator import VideoGenerator
from regen.generate.video_shape import VideoShape
from regen.media.files import read_image
from regen.media.sizes import Size

Image = PIL.Image.Image | Tensor | np.ndarray | Path | str
Callback = Callable[..., dict[str, Any] | None]  # also a PipelineCallback of diffusers


def listed(value: str | list[str] | None) -> list[str]:
    """One text or several, or none, as a list."""
    return [] if value is None else [value] if isinstance(value, str) else value


def repeated(values: list[str], each: int) -> list[str]:
    """Every one so many times in a row."""
    return [value for value in values for _ in range(each)]


def size_of(height: int | None, width: int | None) -> Size | None:
    """Raises ValueError for one of the two alone."""
    if height is None and width is None:
        return None
    if height is None or width is None:
        raise ValueError("Give height and width, or neither.")
    return Size(height, width)


def check_output(output_type: str, callback: Callback | None, inputs: Sequence[str]) -> None:
    """Raises ValueError for a form of the output, or inputs of a callback, that there are not."""
    if output_type not in ("pil", "np", "pt", "latent"):
        raise ValueError(f"There are the output types pil, np, pt and latent, not {output_type!r}.")
    if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
        inputs = callback.tensor_inputs
    if callback is not None and not set(inputs) <= {"latents"}:
        raise ValueError(f"A callback can be given latents and nothing else, not {', '.join(inputs)}.")


def generators_of(given: Generator | list[Generator] | None, count: int) -> list[Generator]:
    """One for each video; where none is given, by torch's global seed."""
    if given is None:
        return [Generator().manual_seed(int(torch.randint(2**62, ()))) for _ in range(count)]
    if isinstance(given, Generator):
        return [given] * count
    if len(given) != count:
        raise ValueError(f"Give one generator, or one for each of {count} videos, not {len(given)}.")
    return given


def check_noise(latents: Tensor | None, maker: VideoGenerator, shape: VideoShape, count: int) -> None:
    """Raises ValueError for noise that does not have the form of these videos' latents."""
    if latents is None:
        return
    if maker.latent_spec.has_sequence:
        raise ValueError(
            "Videos of an embedder with 1D latents begin with noise of their generators alone; leave latents "
            "away."
        )
    chunks = min(shape.chunks, max(1, maker.latent_spec.max_chunks))
    wanted = (count, maker.latent_spec.channels, chunks * shape.latent_frames, shape.rows, shape.columns)
    if tuple(latents.shape) != wanted or not isinstance(latents, Tensor):
        raise ValueError(
            f"These videos begin as a tensor of the shape {wanted}, the latents of a first part, not "
            f"{tuple(latents.shape)}; leave latents away."
        )


def pixels_of(image: Image) -> UInt8[Tensor, "h w 3"]:
    """An image in any of its forms, as 8-bit RGB."""
    if isinstance(image, PIL.Image.Image):
        return torch.from_numpy(np.array(image.convert("RGB")))
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"An image is a tensor c h w with 3 channels, not {tuple(image.shape)}.")
        return rearrange(image.float().cpu().clamp(0, 1).mul(255).round().to(torch.uint8), "c h w -> h w c")
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"An image is an array h w c with 3 channels, not {image.shape}.")
        whole = image if image.dtype == np.uint8 else (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
        return torch.from_numpy(whole)
    return read_image(Path(image))[0]
