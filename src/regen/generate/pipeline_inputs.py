"""Inputs of the pipeline: their checks, and the forms that they come in."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from jaxtyping import Float, UInt8
from torch import Generator, Tensor

from regen.generate.generator import LatentGenerator
from regen.generate.inputs import Condition
from regen.generate.video_generator import VideoGenerator
from regen.generate.video_shape import VideoShape
from regen.latents import Latents
from regen.media.files import read_image
from regen.media.pixels import Size

Image = PIL.Image.Image | Tensor | np.ndarray | Path | str
Callback = Callable[..., dict[str, Any] | None]  # or a PipelineCallback of diffusers


def as_list(value: str | list[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else value


def check_options(
    size: tuple[int | None, int | None], output_type: str, callback: Callback | None, inputs: Sequence[str]
) -> Size | None:
    """The size of the videos, if given. Raises ValueError for options that do not exist."""
    if size.count(None) == 1:
        raise ValueError("Give height and width, or neither.")
    if output_type not in ("pil", "np", "pt", "latent"):
        raise ValueError(f"output_type must be pil, np, pt or latent, got {output_type!r}.")
    if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
        inputs = callback.tensor_inputs
    if callback is not None and not set(inputs) <= {"latents"}:
        raise ValueError(f"callback_on_step_end_tensor_inputs must be latents, got {', '.join(inputs)}.")
    height, width = size
    return None if height is None or width is None else Size(height, width)


def make_generators(given: Generator | list[Generator] | None, count: int) -> list[Generator]:
    """One for each video; by default seeded from torch's global state."""
    if given is None:
        return [Generator().manual_seed(int(torch.randint(2**62, ()))) for _ in range(count)]
    generators = [given] * count if isinstance(given, Generator) else given
    if len(generators) != count:
        raise ValueError(f"Give 1 generator, or {count}, one for each video, not {len(generators)}.")
    return generators


def check_noise(
    latents: Tensor | None, videos: VideoGenerator, shape: VideoShape, count: int
) -> Latents | None:
    """Initial noise, if given. Raises ValueError unless it has the shape of the first segment."""
    if latents is None:
        return None
    spec = videos.latent_spec
    if spec.has_sequence:
        raise ValueError("latents can't be given for an embedder with 1D latents; leave them out.")
    chunks = min(shape.num_chunks, max(1, spec.max_chunks))
    expected = (count, spec.channels, chunks * shape.latent_frames, shape.rows, shape.columns)
    if tuple(latents.shape) != expected:
        raise ValueError(
            f"latents must have the shape {expected} of the first segment, got {(*latents.shape,)}."
        )
    return Latents.of(latents)


def pixels(image: Image) -> UInt8[Tensor, "h w 3"]:
    """An image in any form as 8-bit RGB."""
    if isinstance(image, Path | str):
        return read_image(Path(image))[0]
    if isinstance(image, PIL.Image.Image):
        image = np.array(image.convert("RGB"))
    shape = (*image.shape,)
    if isinstance(image, Tensor):
        image = image.float().cpu().movedim(0, -1).numpy()
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"An image must be a tensor c h w or an array h w c with 3 channels, got {shape}.")
    if image.dtype != np.uint8:
        image = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    return torch.from_numpy(image)


def text_condition(embeds: Float[Tensor, "b m e"], generator: LatentGenerator) -> Condition:
    """The condition of hidden states. Raises ValueError when they have another width than the generator's."""
    width = generator.config.text_width
    if embeds.shape[2] != width:
        raise ValueError(f"prompt_embeds must have {width} channels, got {embeds.shape[2]}.")
    return Condition.from_text(embeds.to(generator.device))
