"""VideoGenerator: from a prompt or a class to frames, the one way that the command and the pipeline share."""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import UInt8
from torch import Generator, Tensor

from regen.codec.chunks import pad, to_clip
from regen.codec.memory import OomRetry
from regen.codec.rate_control import FixedLength, check_lengths, truncate_to
from regen.codec.sessions import DecodeOptions
from regen.embedders.base import PyramidAutoencoder
from regen.embedders.hybrid import HybridAutoencoder
from regen.generate.conditions import Condition
from regen.generate.decoding import ONE_STEP, GeneratedLatents, decode
from regen.generate.generator import LatentGenerator, LatentSpec
from regen.generate.latent_templates import LatentTemplates
from regen.generate.predictor import unconditional
from regen.generate.sampling import GivenFrames, OnStep, SampleOptions, sample_video
from regen.generate.text import TextEncoder
from regen.generate.video_shape import VideoShape, video_shape
from regen.latents import Latents, collate
from regen.media.sizes import Size, resize_center_crop
from regen.pretrained.models import Autoencoder
from regen.tiling import Tile

Image = UInt8[Tensor, "h w 3"]
THIRTY_STEPS = SampleOptions()
NAMES_SHOWN = 30  # classes in an error


class VideoGenerator:
    """A generator with the embedder of its latents, and with its text encoder where it reads texts."""

    def __init__(
        self, model: LatentGenerator, embedder: Autoencoder, text: TextEncoder | None = None
    ) -> None:
        self.model, self.embedder, self.text = model, embedder, text
        self.latent_spec = model.latent_spec
        _check_embedder(self.latent_spec, embedder)

    def shape(
        self, frames: int | None = None, size: Size | None = None, continues: bool = False
    ) -> VideoShape:
        """The shape of the videos for a request (see `video_shape`)."""
        return video_shape(self.latent_spec, self.model.config.patch_size, frames, size, continues)

    def condition(self, prompts: Sequence[str], classes: Sequence[str]) -> Condition:
        """A condition for each prompt or class, on the generator's device; one for any number for neither.

        Raises ValueError when the generator asks for something else, or does not know the class.
        """
        check_condition(self.model, prompts, classes)
        if self.model.config.classes:
            return Condition(label=self.model.labels(classes).to(self.model.device))
        if self.model.config.text_width:
            return self._told(prompts)
        return Condition()

    def without(self, negative: Sequence[str], count: int) -> Condition | None:
        """What guidance leads away from: nothing (None), or one text for all or for each of `count` videos.

        Raises ValueError when the generator reads no texts.
        """
        if not negative:
            return None
        if not self.model.config.text_width:
            raise ValueError("This generator reads no texts, so leave the negative prompt away.")
        if len(negative) not in (1, count):
            raise ValueError(
                f"Give one negative prompt, or one for each of {count} videos, not {len(negative)}."
            )
        return self._told(list(negative) * (count if len(negative) == 1 else 1))

    def truncation_warnings(self, prompts: Sequence[str]) -> list[str]:
        """Sentences on prompts that are longer than what the text encoder reads."""
        if self.text is None:
            return []
        found = (self.text.truncation(prompt) for prompt in dict.fromkeys(prompts))
        return [sentence for sentence in found if sentence is not None]

    def encode_images(self, images: Sequence[Image], shape: VideoShape) -> GivenFrames:
        """Images as the first frames of videos, scaled to cover them and cut at the centre.

        Raises ValueError when a video's first latent frame does not stand for its first frame alone.
        """
        if not isinstance(self.embedder, PyramidAutoencoder):
            raise ValueError(
                "A video can begin with an image only where the embedder is causal (REGEN, MAGVIT-v2), which "
                f"{self.latent_spec.embedder} is not; leave the image away."
            )
        if shape.is_image:
            raise ValueError("An image that is given becomes a video; ask for 2 frames or more.")
        return GivenFrames(collate([self._encoded(image[None], shape, None)[0] for image in images]), 1)

    def encode_last_chunk(
        self, frames: UInt8[Tensor, "t h w 3"], shape: VideoShape, length: FixedLength | None = None
    ) -> GivenFrames:
        """The last chunk of a video, whose new frames come after it.

        Raises ValueError when there are fewer frames than a chunk has.
        """
        wanted = self.latent_spec.chunk_frames
        if len(frames) < wanted:
            raise ValueError(
                f"To go on with a video at least {wanted} frames of it are needed, and it has {len(frames)}; "
                "give a longer one, or one image."
            )
        return GivenFrames(self._encoded(frames[-wanted:], shape, length), self.latent_spec.chunk_latents)

    def sample(
        self,
        shape: VideoShape,
        condition: Condition,
        generators: list[Generator],
        options: SampleOptions = THIRTY_STEPS,
        known: GivenFrames | None = None,
        without: Condition | None = None,
        length: FixedLength | None = None,
        on_step: OnStep = lambda step, latents: latents,
        noise: Latents | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> list[GeneratedLatents]:
        """The latents of videos, one for each of the `generators`, from which all their randomness comes.

        `noise` replaces the noise of the first part; `stopped` is asked after each step whether to end.
        """
        check_lengths(self.embedder, length)
        condition = condition.to(self.model.device)
        without = None if without is None else without.to(self.model.device)
        label = condition.label
        labels = [0] * len(generators) if label is None else label.tolist()
        blank = LatentTemplates(
            self.latent_spec, self.embedder, shape, generators, labels, length, self.model.device
        )
        rows = sample_video(
            self.model, condition, blank, shape.chunks + shape.continues, generators, options, known, without,
            on_step, noise, stopped,
        )  # fmt: skip
        skipped = self.latent_spec.chunk_frames if shape.continues else 0
        return [
            GeneratedLatents(
                [row[number] for row in rows],
                shape.height,
                shape.width,
                self.latent_spec,
                shape.frames,
                skipped,
            )
            for number in range(len(generators))
        ]

    def decode(self, sampled: GeneratedLatents, options: DecodeOptions = ONE_STEP) -> Iterator[Image]:
        """The frames of a video, one by one, as 8-bit RGB."""
        yield from decode(self.embedder, sampled, options)

    def _told(self, prompts: Sequence[str]) -> Condition:
        """The states of texts; those that come more than once are read once."""
        assert self.text is not None, "a generator that reads texts comes with a text encoder"
        numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
        if not any(prompt.strip() for prompt in numbers):
            return unconditional(self.model, len(prompts))
        found = self.text(list(numbers))
        rows = [numbers[prompt] for prompt in prompts]
        return Condition(text=found.states[rows].float(), text_mask=found.mask[rows]).to(self.model.device)

    @torch.inference_mode()
    def _encoded(
        self, frames: UInt8[Tensor, "t h w 3"], shape: VideoShape, length: FixedLength | None
    ) -> Latents:
        """Frames at the shown size as latents of what is generated around it, a batch of one."""
        embedder, side = (
            self.embedder,
            self.latent_spec.spatial_compression_ratio * self.model.config.patch_size,
        )
        fitted = torch.stack([resize_center_crop(frame, Size(shape.height, shape.width)) for frame in frames])
        clip = pad(to_clip(fitted, embedder.device, embedder.dtype), len(frames), side)

        def encode(tile: Tile | None) -> Latents:
            if length is not None:
                return truncate_to(length, embedder, clip, 0, tile)
            return Latents.of(embedder.encode(clip, tile=tile).latent_dist.mode())

        return OomRetry(None).run(encode, *clip.shape[-2:])


def _check_embedder(source: LatentSpec, embedder: Autoencoder) -> None:
    """Raises ValueError when the latents of an embedder have another form than those of the generator."""
    latents = (
        embedder.latent_channels,
        embedder.spatial_compression_ratio,
        isinstance(embedder, HybridAutoencoder),
    )
    wanted = (source.channels, source.spatial_compression_ratio, source.has_sequence)
    if latents != wanted or source.chunk_frames not in (1, embedder.chunk_frames):
        raise ValueError(
            f"The generator makes latents of {source.embedder or 'another embedder'} ({source.channels} "
            f"channels, {source.chunk_frames} frames a chunk), not of this one ({embedder.latent_channels} "
            f"channels, {embedder.chunk_frames} frames a chunk); give the one that it was trained with."
        )


def check_condition(model: LatentGenerator, prompts: Sequence[str], classes: Sequence[str]) -> None:
    """Raises ValueError when a generator is told something else than it was trained with."""
    names = list(model.config.classes or ())
    if names and (prompts or not classes):
        listed = ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
        told = "reads no prompts; give" if prompts else "needs"
        raise ValueError(f"This generator {told} the name of a class, one of: {listed}.")
    if names:
        model.labels(classes)
    elif model.config.text_width and (classes or not prompts):
        told = "knows no classes; give" if classes else "needs"
        raise ValueError(f"This generator {told} a prompt, a sentence on what the video shows.")
    elif not model.config.text_width and (prompts or classes):
        raise ValueError("This generator takes neither a prompt nor a class; leave them away.")
