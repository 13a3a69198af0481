"""RegenTextToVideoPipeline: generator, embedder and text encoder as a pipeline of diffusers."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import PIL.Image
import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.utils import BaseOutput, logging
from einops import rearrange
from torch import Generator, Tensor, nn

from regen.codec.rate_control import FixedLength
from regen.codec.sessions import DecodeOptions
from regen.generate.conditions import Condition
from regen.generate.decoding import GeneratedLatents
from regen.generate.generator import LatentGenerator
from regen.generate.load import load_video_generator
from regen.generate.pipeline_inputs import (
    Callback,
    Image,
    check_noise,
    check_output,
    generators_of,
    listed,
    pixels_of,
    repeated,
    size_of,
)
from regen.generate.sampling import GivenFrames, OnStep, SampleOptions, sampling_schedule
from regen.generate.text import TextEncoder
from regen.generate.tokens import concat_chunks, split_chunks
from regen.generate.video_generator import VideoGenerator
from regen.generate.video_shape import VideoShape
from regen.latents import Latents, collate
from regen.pretrained.models import CLASSES, Autoencoder

logger = logging.get_logger(__name__)

LEVELS = 1000  # the timestep of noise, as diffusers counts

# A pipeline of diffusers loads a class of another package only where its module has this name as well.
for embedder_class in CLASSES.values():
    vars(sys.modules[embedder_class.__module__])["ModelMixin"] = ModelMixin


@dataclass
class VideoPipelineOutput(BaseOutput):
    """`frames`: for each video a list of PIL images; or all as numpy "b t h w c" or torch "b t c h w", in
    [0, 1]; or all latents, "b c f y x" (or `Latents`)."""

    frames: Any


class RegenTextToVideoPipeline(DiffusionPipeline):
    """Videos from prompts or classes, in diffusers' conventions; `load_pipeline` makes one by a name.

    `generator` makes latents of the embedder `vae`. `text_encoder` and `tokenizer` are those of transformers
    that the generator was trained with; one that reads no texts does without them.
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
        """That of the last call."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """Steps of the last call, of all parts of its videos together."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether a callback has asked, by setting `_interrupt`, to leave it at the steps done so far."""
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
        length: FixedLength | None = None,
    ) -> VideoPipelineOutput | tuple[Any]:
        """Videos, `num_videos_per_prompt` of each prompt or name in `class_labels`, one after another.

        `height`, `width` and `num_frames`: by default the most frequent size of the training, and one chunk.
        `image`: the first frame, of all videos or one of each prompt: a PIL image, a path, a tensor "c h w"
        or an array "h w c" in [0, 1]. `generator`: one for each video, or one for all. `latents`: noise to
        begin with, "b c f y x". `length`: 1D latents of each chunk, where the embedder has such.
        `guidance_scale` acts above 1. `callback_on_step_end` is called with (pipeline, step, timestep from
        1000 on, {"latents"}) and may answer other latents; a video in several parts counts the steps of each
        from 0.
        Raises ValueError for what these models can't do.
        """
        check_output(output_type, callback_on_step_end, callback_on_step_end_tensor_inputs)
        options = SampleOptions(num_inference_steps, max(1.0, guidance_scale), guidance_interval)
        maker = self._maker()
        shape = maker.shape(num_frames, size_of(height, width))
        self._guidance_scale, self._num_timesteps = guidance_scale, num_inference_steps * shape.parts
        self._interrupt = False
        conditions = self._conditions(maker, prompt, negative_prompt, class_labels, num_videos_per_prompt)
        known = self._known(maker, image, shape, num_videos_per_prompt, conditions.count)
        generators = generators_of(generator, conditions.count)
        seeds = [int(torch.randint(2**62, (), generator=g, device=g.device)) for g in generators]
        check_noise(latents, maker, shape, conditions.count)
        for note in [*shape.notes, *conditions.notes]:
            logger.warning(note)
        _onload(self.generator)
        with self.progress_bar(total=num_inference_steps * shape.parts) as bar:
            on_step = self._on_step(
                callback_on_step_end, callback_on_step_end_tensor_inputs, num_inference_steps, bar.update
            )
            sampled = maker.sample(
                shape, conditions.told, generators, options, known, conditions.without, length, on_step,
                None if latents is None else Latents.of(latents), lambda: self._interrupt,
            )  # fmt: skip
        frames = self._shown(maker, sampled, seeds, output_type, decoder_steps)
        self.maybe_free_model_hooks()
        return VideoPipelineOutput(frames=frames) if return_dict else (frames,)

    def _maker(self) -> VideoGenerator:
        """The modules as they are now. Raises ValueError where one is missing."""
        model, text = self.generator, None
        if model.config.text_width:
            if self.text_encoder is None or self.tokenizer is None or model.config.text_encoder is None:
                raise ValueError(
                    "This generator reads texts; give the pipeline the text_encoder and the tokenizer that "
                    "it was trained with, as load_pipeline does."
                )
            text = TextEncoder.from_modules(
                self.text_encoder, self.tokenizer, model.config.text_encoder, model.config.text_width
            )
        return VideoGenerator(model, self.vae, text)

    def _conditions(
        self,
        maker: VideoGenerator,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None,
        class_labels: str | list[str] | None,
        each: int,
    ) -> "_Conditions":
        """What the videos show and what they don't, for `each` videos of every prompt or class."""
        prompts, negative, classes = listed(prompt), listed(negative_prompt), listed(class_labels)
        if self.text_encoder is not None:
            _onload(self.text_encoder)
        told = maker.condition(repeated(prompts, each), repeated(classes, each))
        count = max(1, len(prompts) + len(classes)) * each
        without = maker.without(negative if len(negative) == 1 else repeated(negative, each), count)
        return _Conditions(count, told, without, maker.truncation_warnings([*prompts, *negative]))

    def _known(
        self,
        maker: VideoGenerator,
        image: Image | list[Image] | None,
        shape: VideoShape,
        each: int,
        count: int,
    ) -> GivenFrames | None:
        """The first frames of the videos, where they are given."""
        if image is None:
            return None
        images = image if isinstance(image, list) else [image]
        if len(images) not in (1, count // each):
            raise ValueError(
                f"Give one image, or one for each of {count // each} prompts, not {len(images)}."
            )
        _onload(self.vae)
        known = maker.encode_images([pixels_of(one) for one in images], shape)
        grid = known.latents.grid.repeat_interleave(count // len(images), dim=0)
        return GivenFrames(Latents.of(grid), known.frames)

    def _on_step(
        self, callback: Callback | None, inputs: Sequence[str], steps: int, update: Callable[[], Any]
    ) -> OnStep:
        """Tell the bar and the caller's `callback` of every step; this one may change the latents."""
        levels = sampling_schedule(steps, self.generator.config.timestep_shift)

        def on_step(step: int, latents: Latents) -> Latents:
            update()
            if callback is None:
                return latents
            timestep = torch.tensor(LEVELS * levels[step])
            tensors = {"latents": latents.for_decoder()} if "latents" in inputs else {}
            answer = callback(self, step, timestep, tensors)
            return Latents.of((answer or {}).get("latents", latents))

        return on_step

    def _shown(
        self,
        maker: VideoGenerator,
        sampled: list[GeneratedLatents],
        seeds: list[int],
        output_type: str,
        steps: int,
    ) -> Any:
        """Sampled videos in the form that was asked for, decoded with noise of these seeds."""
        if output_type == "latent":
            n = maker.latent_spec.chunk_latents
            chunks = [[part for row in one.rows for part in split_chunks(row, n)] for one in sampled]
            rows = [concat_chunks(collate(parts)) if len(parts) > 1 else parts[0] for parts in chunks]
            return collate(rows).for_decoder()
        _onload(self.vae)
        videos = [
            torch.stack(list(maker.decode(one, DecodeOptions(steps=steps, seed=seed))))
            for one, seed in zip(sampled, seeds, strict=True)
        ]
        if output_type == "pil":
            return [[PIL.Image.fromarray(frame.numpy()) for frame in video] for video in videos]
        values = torch.stack(videos).float() / 255
        return values.numpy() if output_type == "np" else rearrange(values, "b t h w c -> b t c h w")


@dataclass(frozen=True)
class _Conditions:
    """Those of `count` videos, and notes for people."""

    count: int
    told: Condition
    without: Condition | None
    notes: list[str]


def load_pipeline(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    embedder: str | None = None,
    text: str | None = None,
) -> RegenTextToVideoPipeline:
    """The pipeline of the generator called `name`, with its embedder and its text encoder."""
    maker = load_video_generator(name, device, dtype, embedder, text)
    encoder = maker.text
    if encoder is None:
        return RegenTextToVideoPipeline(maker.model, maker.embedder)
    return RegenTextToVideoPipeline(maker.model, maker.embedder, encoder.model, encoder.tokenizer)


def _onload(module: nn.Module) -> None:
    """With `enable_model_cpu_offload` the module comes to its device now, before it is asked where it is."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(module)
