"""The nodes: load a model or a generator, encode, decode, generate.

An IMAGE of ComfyUI is "frames h w 3" in [0, 1]; a LATENT is described in `latent.py`.
"""

from fractions import Fraction
from typing import Any

import torch
from comfy.model_management import throw_exception_if_processing_interrupted as stop_if_cancelled
from comfy.utils import ProgressBar
from comfy_api.latest import ComfyExtension, io
from PIL import Image
from torch import Tensor

from regen.codec.chunks import to_image
from regen.codec.sessions import DecodeOptions, DecodeSession, EncodeSession
from regen.codec.timeline import Timeline, blend_frames, offsets_per_chunk, output_frames
from regen.codec.transcode import with_tile
from regen.generate.load import load_video_generator
from regen.generate.sampling import OnStep, SampleOptions
from regen.generate.video_generator import VideoGenerator
from regen.latents import Latents, collate
from regen.media.pixels import Size
from regen.pretrained.models import Autoencoder, load
from regen.runtime import generator_for, interruptible, pick_device, pick_dtype

from .latent import EncodedVideo, as_latent, from_latent

CATEGORY, AUTO = "regen", "auto"
Model, Generator = io.Custom("REGEN_MODEL"), io.Custom("REGEN_GENERATOR")
MAX_PREVIEW = 512  # pixels of a side
MAX_SEED = 2**53 - 1  # the largest whole number that the browser keeps


def runtime_inputs() -> list[Any]:
    """Inputs of both loaders: where and in which precision a model computes."""
    return [
        io.Combo.Input("device", options=[AUTO, "cuda", "mps", "cpu"], default=AUTO),
        io.Combo.Input("dtype", options=[AUTO, "bf16", "fp16", "fp32"], default=AUTO),
    ]


def name_input(default: str) -> Any:
    """The name of a model."""
    tooltip = "A name from `regen models`, a folder (also of a run), or owner/name on the Hugging Face Hub."
    return io.String.Input("name", default=default, tooltip=tooltip)


def seed_input(tooltip: str) -> Any:
    return io.Int.Input("seed", default=0, min=0, max=MAX_SEED, control_after_generate=True, tooltip=tooltip)


def count_input(name: str, tooltip: str, most: int = 64) -> Any:
    return io.Int.Input(name, default=0, min=0, max=most, tooltip=tooltip)


def runtime(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """The device and the dtype. Raises ValueError when this machine lacks the device."""
    chosen = pick_device(None if device == AUTO else device)
    return chosen, pick_dtype(None if dtype == AUTO else dtype, chosen)


def previews(embedder: Autoencoder, total: int) -> OnStep:
    """Shows the middle frame of the latents after each of `total` steps, where the embedder has a preview."""
    bar, done = ProgressBar(total), 0

    def on_step(step: int, latents: Latents) -> Latents:
        nonlocal done
        done += 1
        image = None
        if embedder.config.latent_rgb_factors is not None:
            video = embedder.preview(latents)[0].unbind(1)
            small = Image.fromarray(to_image(video[len(video) // 2]).cpu().numpy())
            large = small.resize([side * embedder.spatial_compression_ratio for side in small.size])
            image = ("JPEG", large, MAX_PREVIEW)
        bar.update_absolute(done, total, image)
        return latents

    return on_step


class LoadModel(io.ComfyNode):
    """Loads a video embedder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RegenLoadModel",
            display_name="Regen Load Model",
            category=CATEGORY,
            description="Load a video embedder, which encodes videos to latents and decodes them.",
            inputs=[name_input("regen-small-4x"), *runtime_inputs()],
            outputs=[Model.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, name: str, device: str, dtype: str) -> io.NodeOutput:
        with torch.inference_mode(False):  # weights loaded in it round differently
            return io.NodeOutput(load(name.strip(), *runtime(device, dtype)))


class LoadGenerator(io.ComfyNode):
    """Loads a generator with its embedder and text encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RegenLoadGenerator",
            display_name="Regen Load Generator",
            category=CATEGORY,
            description="Load a video generator, and the embedder that decodes its latents.",
            inputs=[name_input("t2v-world"), *runtime_inputs()],
            outputs=[Generator.Output(display_name="generator"), Model.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, name: str, device: str, dtype: str) -> io.NodeOutput:
        with torch.inference_mode(False):
            generator = load_video_generator(name.strip(), *runtime(device, dtype))
        return io.NodeOutput(generator, generator.embedder)


class Encode(io.ComfyNode):
    """Encodes the frames of a video, or an image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RegenEncode",
            display_name="Regen Encode",
            category=CATEGORY,
            description="Encode the frames of a video, of any number and size, or one image, to latents.",
            inputs=[
                Model.Input("model"),
                io.Image.Input("images"),
                io.Float.Input("fps", default=24.0, min=0.01, max=1000.0, step=0.01),
            ],
            outputs=[io.Latent.Output(display_name="latent")],
        )

    @classmethod
    def execute(cls, model: Autoencoder, images: Tensor, fps: float) -> io.NodeOutput:
        frames = (images[..., :3].float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
        count, height, width = frames.shape[:3]
        session = EncodeSession(model, with_tile(DecodeOptions(), model, height, width, None).tile)
        chunks, bar = [], ProgressBar(count)
        with interruptible(model, stop_if_cancelled):
            for chunk in session.encode(frames):
                chunks.append(chunk.latents)
                bar.update(chunk.frames)
        rate = Fraction(fps).limit_denominator(100_000)
        video = EncodedVideo(collate(chunks), count, height, width, rate, model.chunk_frames)
        return io.NodeOutput(as_latent(video))


class Decode(io.ComfyNode):
    """Decodes latents to frames, also to those between and beyond the encoded ones."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RegenDecode",
            display_name="Regen Decode",
            category=CATEGORY,
            description="Decode latents to frames at any frame rate, also before and after the video.",
            inputs=[
                Model.Input("model"),
                io.Latent.Input("latent"),
                io.Int.Input(
                    "interpolate", default=1, min=1, max=32, tooltip="Frames to make of each encoded one."
                ),
                io.Int.Input(
                    "steps",
                    default=1,
                    min=1,
                    max=1000,
                    tooltip="Denoising steps: 1 is closest to the original, more draw samples.",
                ),
                seed_input("The noise of several steps."),
                io.Combo.Input(
                    "seams",
                    options=["extend", "match", "none"],
                    default="extend",
                    tooltip="How chunks are joined. extend: latent extension, from 2 steps on; "
                    "match: each chunk is moved to the one before; none: independent.",
                ),
                count_input("extrapolate_before", "Frames to make before the first one."),
                count_input("extrapolate_after", "Frames to make after the last one."),
            ],
            outputs=[io.Image.Output(display_name="images"), io.Float.Output(display_name="fps")],
        )

    @classmethod
    def execute(
        cls,
        model: Autoencoder,
        latent: dict[str, Any],
        interpolate: int,
        steps: int,
        seed: int,
        seams: str,
        extrapolate_before: int = 0,
        extrapolate_after: int = 0,
    ) -> io.NodeOutput:
        video, before, after = from_latent(latent, model), extrapolate_before, extrapolate_after
        timeline = Timeline(interpolate=interpolate, extrapolate_before=before, extrapolate_after=after)
        times = [float(i / video.frame_rate) for i in range(video.frames)]
        frames, rate = output_frames(times, video.frame_rate, model.chunk_frames, timeline)
        offsets = offsets_per_chunk(frames, len(video.latents))
        height, width = video.coded_size(model.spatial_compression_ratio)
        options = with_tile(DecodeOptions(steps, seed, seams=seams), model, height, width, None)
        session = DecodeSession(model, height=height, width=width, options=options)
        requests = zip(video.chunks(), offsets, strict=True)
        images, bar = list[Tensor](), ProgressBar(len(frames))
        with interruptible(model, stop_if_cancelled):
            for ready in blend_frames(frames, offsets, session.decode(requests)):
                images += [image[: video.height, : video.width] for image in ready]
                bar.update(len(ready))
        return io.NodeOutput(torch.stack(images).float() / 255, float(rate))


class Generate(io.ComfyNode):
    """Generates the latents of a video from a prompt, and shows previews of them on the way."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RegenGenerate",
            display_name="Regen Generate",
            category=CATEGORY,
            description="Generate the latents of a video from a prompt.",
            inputs=[
                Generator.Input("generator"),
                io.String.Input(
                    "prompt", multiline=True, tooltip="For a generator of classes: the name of a class."
                ),
                io.String.Input("negative_prompt", multiline=True, default=""),
                seed_input("The noise that sampling starts from."),
                io.Int.Input("steps", default=30, min=1, max=1000, tooltip="Denoising steps."),
                io.Float.Input(
                    "guidance_scale",
                    default=4.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How strongly the video follows the prompt; 1 disables guidance.",
                ),
                count_input("frames", "0: one chunk.", 100_000),
                count_input("width", "In pixels; 0: the usual size of the training.", 8192),
                count_input("height", "In pixels; 0: the usual size of the training.", 8192),
            ],
            outputs=[io.Latent.Output(display_name="latent")],
        )

    @classmethod
    def execute(
        cls,
        generator: VideoGenerator,
        prompt: str,
        negative_prompt: str,
        seed: int,
        steps: int,
        guidance_scale: float,
        frames: int,
        width: int,
        height: int,
    ) -> io.NodeOutput:
        if (width > 0) != (height > 0):
            raise ValueError(f"Give width and height, or 0 for both, got {width} and {height}.")
        shape = generator.shape(frames or None, Size(height, width) if width else None)
        texts = [prompt.strip()] if prompt.strip() else []
        has_classes = bool(generator.model.config.classes)
        condition = generator.condition([] if has_classes else texts, texts if has_classes else [])
        negatives = [negative_prompt.strip()] if negative_prompt.strip() else []
        with interruptible(generator.model, stop_if_cancelled):
            (generated,) = generator.sample(
                shape,
                condition,
                [generator_for(seed, 0)],
                SampleOptions(steps, guidance_scale),
                negative=generator.negative_condition(negatives, 1),
                on_step=previews(generator.embedder, steps * shape.num_segments),
            )
        rate = Fraction(generator.latent_spec.frame_rate).limit_denominator(10_000)
        latents, size = collate(generated.chunks()).cpu(), (shape.frames, shape.height, shape.width)
        video = EncodedVideo(latents, *size, rate, generator.embedder.chunk_frames)
        return io.NodeOutput(as_latent(video))


class RegenExtension(ComfyExtension):
    """The pack of these nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [LoadModel, LoadGenerator, Encode, Decode, Generate]


async def comfy_entrypoint() -> ComfyExtension:
    """What ComfyUI calls when it starts."""
    return RegenExtension()
