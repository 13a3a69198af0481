"""RegenTextToVideoPipeline: a diffusers pipeline of generator, embedder and text encoder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import BaseOutput, logging
from einops import rearrange
from jaxtyping import UInt8
from torch import Generator, Tensor, nn

from regen.codec.rate_control import FixedLength
from regen.codec.sessions import DecodeOptions
from regen.generate.generator import LatentGenerator
from regen.generate.inputs import Condition, concat_chunks
from regen.generate.pipeline_loading import NamedPipeline
from regen.generate.sampling import GivenFrames, OnStep, SampleOptions, sampling_schedule
from regen.generate.text import TextEncoder
from regen.generate.video_generator import GeneratedLatents, VideoGenerator
from regen.generate.video_shape import VideoShape
from regen.latents import Latents, collate
from regen.media.files import read_image
from regen.media.pixels import Size
from regen.pretrained.models import Autoencoder

logger = logging.get_logger(__name__)

Image = PIL.Image.Image | Tensor | np.ndarray | Path | str
Callback = Callable[..., dict[str, Any] | None]  # or a PipelineCallback of diffusers
MAX_TIMESTEP = 1000  # of pure noise, in diffusers' units


@dataclass
class VideoPipelineOutput(BaseOutput):
    """`frames`: a list of PIL images for each video; or numpy "b t h w c" or torch "b t c h w" in [0, 1]; or
    latents "b c f y x" (or `Latents`)."""

    frames: Any


class RegenTextToVideoPipeline(NamedPipeline):
    """Videos from prompts or classes, with diffusers' conventions.

    `generator` generates latents of the embedder `vae`. `text_encoder` and `tokenizer` of transformers are
    those of its training; a generator without texts needs none.
    """

    model_cpu_offload_seq = "text_encoder->generator->vae"
    _optional_components: ClassVar[list[str]] = ["text_encoder", "tokenizer"]
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents"]

    def __init__(
        self,
        generator: LatentGenerator,
        vae: Autoencoder,
        text_encoder: nn.Module | None = None,
        tokenizer: Any = None,
    ) -> None:
        super().__init__()
        self.register_modules(generator=generator, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer)
        self._guidance_scale, self._interrupt, self._num_timesteps = 1.0, False, 0

    @property
    def guidance_scale(self) -> float:
        """Guidance scale of the last call."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """Steps of the last call, over all segments of its videos."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether a callback stopped sampling early, by setting `_interrupt`."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        class_labels: str | list[str] | None = None,
        image: Image | list[Image] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int = 30,
        guidance_scale: float = 4.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        num_videos_per_prompt: int = 1,
        generator: Generator | list[Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        decoder_steps: int = 1,
        num_latents: FixedLength | None = None,
    ) -> VideoPipelineOutput | tuple[Any]:
        """Generate `num_videos_per_prompt` videos of each prompt, or of each class name in `class_labels`.

        Args:
            image: First frame of all videos, or one for each prompt: a PIL image, a path, a tensor "c h w" or
                an array "h w c", in [0, 1].
            height, width, num_frames: By default the most frequent size in training, and one chunk.
            guidance_scale: Acts above 1.
            generator: One for each video, or one for all; `latents` is the initial noise "b c f y x".
            callback_on_step_end: Called with (pipeline, step, timestep from 1000 on, {"latents"}); may return
                other latents. Each segment of a long video counts its steps from 0.
            decoder_steps, num_latents: Denoising steps of the decoder; 1D latents of a chunk, if it has any.

        Raises ValueError for what these models can't do.
        """
        inputs = callback_on_step_end_tensor_inputs
        _check_options((height, width), output_type, callback_on_step_end, inputs)
        options = SampleOptions(num_inference_steps, max(1.0, guidance_scale), guidance_interval)
        videos, each = self._video_generator(), num_videos_per_prompt
        size = None if height is None or width is None else Size(height, width)
        shape = videos.shape(num_frames, size)
        self._guidance_scale, self._num_timesteps = guidance_scale, num_inference_steps * shape.num_segments
        self._interrupt = False
        prompts, negatives, classes = map(_as_list, (prompt, negative_prompt, class_labels))
        condition, negative, count = self._conditions(videos, prompts, negatives, classes, each)
        given = None if image is None else self._given_frames(videos, image, shape, each, count)
        generators = _generators(generator, count)
        seeds = [int(torch.randint(2**62, (), generator=g, device=g.device)) for g in generators]
        noise = None if latents is None else _check_noise(latents, videos, shape, count)
        for warning in [*shape.notes, *videos.truncation_warnings([*prompts, *negatives])]:
            logger.warning(warning)
        _onload(self.generator)
        with self.progress_bar(total=self._num_timesteps) as bar:
            on_step = self._on_step(callback_on_step_end, inputs, num_inference_steps, bar.update)
            arguments = (shape, condition, generators, options, given, negative, num_latents, on_step, noise)
            generated = videos.sample(*arguments, lambda: self._interrupt)
        frames = self._output(generated, seeds, output_type, decoder_steps)
        self.maybe_free_model_hooks()
        return VideoPipelineOutput(frames=frames) if return_dict else (frames,)

    def _conditions(
        self,
        videos: VideoGenerator,
        prompts: list[str],
        negatives: list[str],
        classes: list[str],
        each: int,
    ) -> tuple[Condition, Condition | None, int]:
        """What the videos show, what guidance leads away from, and the number of videos."""
        _onload(self.text_encoder)
        prompts, classes, repeated = (
            [text for text in texts for _ in range(each)] for texts in (prompts, classes, negatives)
        )
        count = len(prompts) + len(classes) or each
        negative = videos.negative_condition(negatives if len(negatives) == 1 else repeated, count)
        return videos.condition(prompts, classes), negative, count

    def _video_generator(self) -> VideoGenerator:
        """The modules as they are now. Raises ValueError for a missing text encoder."""
        model, text = self.generator, None
        if model.config.text_width:
            if self.text_encoder is None or self.tokenizer is None or model.config.text_encoder is None:
                raise ValueError(
                    "This generator reads texts; the pipeline needs its text_encoder and tokenizer."
                )
            tokens = model.config.text_encoder["max_tokens"]
            text = TextEncoder(self.text_encoder, self.tokenizer, tokens, model.config.text_width)
        return VideoGenerator(model, self.vae, text)

    def _given_frames(
        self, videos: VideoGenerator, image: Image | list[Image], shape: VideoShape, each: int, count: int
    ) -> GivenFrames:
        images = image if isinstance(image, list) else [image]
        if len(images) not in (1, count // each):
            raise ValueError(f"Give 1 image, or {count // each}, one for each prompt, not {len(images)}.")
        _onload(self.vae)
        given = videos.encode_images([_pixels(one) for one in images], shape)
        grid = given.latents.grid.repeat_interleave(count // len(images), dim=0)
        return GivenFrames(Latents.of(grid), given.frames)

    def _on_step(
        self, callback: Callback | None, inputs: Sequence[str], steps: int, update: Callable[[], Any]
    ) -> OnStep:
        """Update the bar and call the user's `callback`, which may replace the latents."""
        levels = sampling_schedule(steps, self.generator)

        def on_step(step: int, latents: Latents) -> Latents:
            update()
            if callback is None:
                return latents
            tensors = {"latents": latents.for_decoder()} if "latents" in inputs else {}
            changed = callback(self, step, torch.tensor(MAX_TIMESTEP * levels[step]), tensors)
            return Latents.of((changed or {}).get("latents", latents))

        return on_step

    def _output(
        self, generated: list[GeneratedLatents], seeds: list[int], output_type: str, steps: int
    ) -> Any:
        """The videos as `output_type`, decoded with noise of these seeds."""
        if output_type == "latent":
            rows = [video.chunks() for video in generated]
            return collate([concat_chunks(collate(row)) for row in rows]).for_decoder()
        _onload(self.vae)
        videos = [
            torch.stack(list(video.decode(self.vae, DecodeOptions(steps=steps, seed=seed))))
            for video, seed in zip(generated, seeds, strict=True)
        ]
        if output_type == "pil":
            return [[PIL.Image.fromarray(frame.numpy()) for frame in video] for video in videos]
        values = torch.stack(videos).float() / 255
        return values.numpy() if output_type == "np" else rearrange(values, "b t h w c -> b t c h w")


def _onload(module: nn.Module | None) -> None:
    """Move a module to its device now (`enable_model_cpu_offload`), before its device is read."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(module)


def _as_list(value: str | list[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else value


def _check_options(
    size: tuple[int | None, int | None], output_type: str, callback: Callback | None, inputs: Sequence[str]
) -> None:
    if size.count(None) == 1:
        raise ValueError("Give height and width, or neither.")
    if output_type not in ("pil", "np", "pt", "latent"):
        raise ValueError(f"output_type must be pil, np, pt or latent, got {output_type!r}.")
    if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
        inputs = callback.tensor_inputs
    if callback is not None and not set(inputs) <= {"latents"}:
        raise ValueError(f"callback_on_step_end_tensor_inputs must be latents, got {', '.join(inputs)}.")


def _generators(given: Generator | list[Generator] | None, count: int) -> list[Generator]:
    """One for each video; by default seeded from torch's global state."""
    if given is None:
        return [Generator().manual_seed(int(torch.randint(2**62, ()))) for _ in range(count)]
    generators = [given] * count if isinstance(given, Generator) else given
    if len(generators) != count:
        raise ValueError(f"Give 1 generator, or {count}, one for each video, not {len(generators)}.")
    return generators


def _check_noise(latents: Tensor, videos: VideoGenerator, shape: VideoShape, count: int) -> Latents:
    """Initial noise. Raises ValueError unless it has the shape of the first segment."""
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


def _pixels(image: Image) -> UInt8[Tensor, "h w 3"]:
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
