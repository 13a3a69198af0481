"""RegenTextToVideoPipeline: a diffusers pipeline of generator, embedder and text encoder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import PIL.Image
import torch
from diffusers.utils import BaseOutput, logging
from einops import rearrange
from jaxtyping import Float
from torch import Generator, Tensor, nn

from regen.codec.chunks import to_float, to_image
from regen.codec.rate_control import FixedLength
from regen.codec.sessions import DecodeOptions
from regen.generate.generator import LatentGenerator
from regen.generate.inputs import Condition, concat_chunks
from regen.generate.pipeline_inputs import (
    Callback,
    Image,
    as_list,
    check_noise,
    check_options,
    make_generators,
    pixels,
    text_condition,
)
from regen.generate.pipeline_loading import NamedPipeline
from regen.generate.sampling import GivenFrames, OnStep, SampleOptions, sampling_schedule
from regen.generate.text import TextEncoder, embed_prompts
from regen.generate.video_generator import GeneratedLatents, VideoGenerator
from regen.generate.video_shape import VideoShape
from regen.latents import Latents, collate
from regen.pretrained.models import Autoencoder

logger = logging.get_logger(__name__)

MAX_TIMESTEP = 1000  # of pure noise, in diffusers' units


@dataclass
class VideoPipelineOutput(BaseOutput):
    """`frames`: a list of PIL images for each video; or numpy "b t h w c" or torch "b t c h w" in [0, 1]; or
    latents "b c f y x" (or `Latents`)."""

    frames: Any


class RegenTextToVideoPipeline(NamedPipeline):
    """Videos from prompts or classes, with diffusers' conventions.

    `generator` generates latents of the embedder `vae`. `text_encoder` and `tokenizer` of transformers are
    those of its training; a generator without texts needs none. `encode_prompt` needs nothing else.
    """

    model_cpu_offload_seq = "text_encoder->generator->vae"
    _optional_components: ClassVar[list[str]] = ["text_encoder", "tokenizer"]
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents"]

    def __init__(
        self,
        generator: LatentGenerator | None,
        vae: Autoencoder | None,
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
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
    ) -> VideoPipelineOutput | tuple[Any]:
        """Generate `num_videos_per_prompt` videos of each prompt, or of each class name in `class_labels`.

        Args:
            image: First frame of all videos, or one for each prompt: a PIL image, a path, a tensor "c h w" or
                an array "h w c", in [0, 1].
            height, width, num_frames: By default the most frequent training size, and one chunk.
            generator: One for each video, or for all; `latents` are initial noise "b c f y x".
            callback_on_step_end: Called with (pipeline, step, timestep from 1000 on, {"latents"}); may return
                other latents. Each segment of a long video counts its steps from 0.
            decoder_steps, num_latents: Denoising steps of the decoder; 1D latents of a chunk, if it has any.
            prompt_embeds, negative_prompt_embeds: As `encode_prompt` returns them, instead of prompts.

        Raises ValueError for what these models can't do.
        """
        inputs = callback_on_step_end_tensor_inputs
        size = check_options((height, width), output_type, callback_on_step_end, inputs)
        options = SampleOptions(num_inference_steps, max(1.0, guidance_scale), guidance_interval)
        videos, each = self._video_generator(), num_videos_per_prompt
        shape = videos.shape(num_frames, size)
        self._guidance_scale, self._interrupt = guidance_scale, False
        self._num_timesteps = num_inference_steps * shape.num_segments
        prompts, negatives, classes = map(as_list, (prompt, negative_prompt, class_labels))
        texts, embeds = (prompts, negatives), (prompt_embeds, negative_prompt_embeds)
        condition, negative, count = self._conditions(videos, texts, embeds, classes, each)
        given = None if image is None else self._given_frames(videos, image, shape, each, count)
        generators = make_generators(generator, count)
        seeds = [int(torch.randint(2**62, (), generator=g, device=g.device)) for g in generators]
        noise = check_noise(latents, videos, shape, count)
        _warn([*shape.notes, *videos.prompt_warnings([*prompts, *negatives])])
        with self.progress_bar(total=self._num_timesteps) as bar:
            on_step = self._on_step(callback_on_step_end, inputs, num_inference_steps, bar.update)
            arguments = (shape, condition, generators, options, given, negative, num_latents, on_step, noise)
            generated = videos.sample(*arguments, lambda: self._interrupt)
        frames = self._output(generated, seeds, output_type, decoder_steps)
        self.maybe_free_model_hooks()
        return VideoPipelineOutput(frames=frames) if return_dict else (frames,)

    def encode_prompt(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        num_videos_per_prompt: int = 1,
        prompt_embeds: Float[Tensor, "_ _ _"] | None = None,
        negative_prompt_embeds: Float[Tensor, "_ _ _"] | None = None,
        max_sequence_length: int | None = None,
    ) -> tuple[Float[Tensor, "_ _ _"] | None, Float[Tensor, "_ _ _"] | None]:
        """Hidden states "b m e" of prompts and of negative ones: `prompt_embeds`, `negative_prompt_embeds`.

        Each is repeated `num_videos_per_prompt` times; None where there is none. Rows of zeros are padding.
        Needs no generator; without one, `max_sequence_length` is the limit of the tokenizer instead of the
        tokens that the generator read in training. Raises ValueError for both a prompt and its states.
        """
        each, limit = num_videos_per_prompt, max_sequence_length
        prompt_embeds = self._embeds(prompt, prompt_embeds, each, limit)
        negative_prompt_embeds = self._embeds(negative_prompt, negative_prompt_embeds, each, limit)
        return prompt_embeds, negative_prompt_embeds

    def preview(self, latents: Tensor | Latents) -> list[list[PIL.Image.Image]]:
        """Small frames of latents, such as those that a callback is given, by a linear map: no decoding."""
        frames = rearrange(self.vae.preview(latents), "b c t y x -> b t c y x").cpu()
        return [[PIL.Image.fromarray(to_image(frame).numpy()) for frame in video] for video in frames]

    def _embeds(
        self, prompt: str | list[str] | None, embeds: Tensor | None, each: int, limit: int | None
    ) -> Float[Tensor, "_ m e"] | None:
        if prompt is not None:
            if embeds is not None:
                raise ValueError("Give a prompt or its embeds, not both.")
            text = self._text_encoder(limit)
            if text is None:
                raise ValueError("A prompt needs the text_encoder and tokenizer of the pipeline.")
            embeds = embed_prompts(text, as_list(prompt))
        return None if embeds is None else embeds.repeat_interleave(each, dim=0)

    def _text_encoder(self, max_tokens: int | None = None) -> TextEncoder | None:
        """The text encoder as the generator read it in training, if the pipeline has one."""
        if self.text_encoder is None or self.tokenizer is None:
            return None
        trained = {} if self.generator is None else self.generator.config.text_encoder or {}
        tokens = max_tokens or trained.get("max_tokens") or self.tokenizer.model_max_length
        return TextEncoder(self.text_encoder, self.tokenizer, tokens, self.text_encoder.config.hidden_size)

    def _conditions(
        self,
        videos: VideoGenerator,
        prompts: tuple[list[str], list[str]],
        embeds: tuple[Tensor | None, Tensor | None],
        classes: list[str],
        each: int,
    ) -> tuple[Condition, Condition | None, int]:
        """What the videos show, what guidance leads away from, and the number of videos.

        `prompts` and `embeds`: those of the videos, and negative ones.
        """
        has_embeds = any(one is not None for one in embeds)
        if not has_embeds:
            videos.check_prompts(prompts[0], classes, prompts[1])
        if not self.generator.config.text_width:
            if has_embeds:
                raise ValueError("This generator reads no texts; leave prompt_embeds out.")
            classes = [name for name in classes for _ in range(each)]
            return videos.condition([], classes), None, len(classes) or each
        positive, negative = self.encode_prompt(prompts[0] or None, prompts[1] or None, each, *embeds)
        if positive is None:
            raise ValueError("This generator needs a prompt or prompt_embeds.")
        condition, count = text_condition(positive, self.generator), len(positive)
        if negative is not None and len(negative) not in (each, count):
            given, count = len(negative) // each, count // each
            raise ValueError(f"Give 1 negative prompt, or {count}, one for each prompt, not {given}.")
        if negative is not None and len(negative) < count:
            negative = negative[:1].expand(count, -1, -1)
        return condition, None if negative is None else text_condition(negative, self.generator), count

    def _video_generator(self) -> VideoGenerator:
        """The modules as they are now."""
        return VideoGenerator(self.generator, self.vae, self._text_encoder())

    def _given_frames(
        self, videos: VideoGenerator, image: Image | list[Image], shape: VideoShape, each: int, count: int
    ) -> GivenFrames:
        images = image if isinstance(image, list) else [image]
        if len(images) not in (1, count // each):
            raise ValueError(f"Give 1 image, or {count // each}, one for each prompt, not {len(images)}.")
        given = videos.encode_images([pixels(one) for one in images], shape)
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
        convert = to_image if output_type == "pil" else to_float
        videos = [
            list(video.decode(self.vae, DecodeOptions(steps=steps, seed=seed), convert))
            for video, seed in zip(generated, seeds, strict=True)
        ]
        if output_type == "pil":
            return [[PIL.Image.fromarray(frame.numpy()) for frame in video] for video in videos]
        values = torch.stack([torch.stack(video) for video in videos])
        return values.numpy() if output_type == "np" else rearrange(values, "b t h w c -> b t c h w")


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        logger.warning(warning)
