"""VideoGenerator: generator, embedder and text encoder from prompts to frames."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Shaped, UInt8
from torch import Generator, Tensor
from torch.nn import functional as F

from regen.codec.chunks import ChunkLatents, to_clip, to_image
from regen.codec.memory import OomRetry
from regen.codec.rate_control import FixedLength, check_lengths, truncate_to
from regen.codec.sessions import Convert, DecodeOptions, decode_chunks
from regen.embedders.hybrid import HybridAutoencoder
from regen.embedders.interface import Embedder
from regen.embedders.pyramid import PyramidAutoencoder
from regen.generate.generator import LatentGenerator, LatentSpec
from regen.generate.inputs import Condition, split_chunks
from regen.generate.prompts import unusual_prompt
from regen.generate.sampling import GivenFrames, OnStep, SampleOptions, sample_video
from regen.generate.text import TextEncoder, embed_prompts
from regen.generate.video_shape import LatentTemplates, VideoShape, video_shape
from regen.latents import Latents, collate
from regen.media.pixels import Size, resize_center_crop
from regen.pretrained.models import Autoencoder
from regen.tiling import Tile

Image = UInt8[Tensor, "h w 3"]
DEFAULT_SAMPLING, ONE_STEP = SampleOptions(), DecodeOptions()
MAX_NAMES = 30  # classes listed in an error


@dataclass(frozen=True)
class GeneratedLatents:
    """Latents of one generated video, in segments of consecutive chunks; `height` x `width` pixels."""

    segments: list[Latents]
    height: int
    width: int
    spec: LatentSpec
    frames: int | None = None
    """Frames to show; None: all."""
    skip_frames: int = 0
    """Frames to skip before them: those of a given chunk, which the next one is joined to."""

    def chunks(self) -> list[Latents]:
        """The latents of each chunk."""
        return [chunk for row in self.segments for chunk in split_chunks(row, self.spec.chunk_latents)]

    def decode(
        self, embedder: Embedder, options: DecodeOptions = ONE_STEP, convert: Convert = to_image
    ) -> Iterator[Shaped[Tensor, "h w 3"]]:
        """The frames, one by one, cropped to the size of the video; `convert`: see `DecodeSession`."""
        chunks = self.chunks()
        frames = self.spec.chunk_frames if chunks[0].shape[1] == self.spec.chunk_latents else 1
        stream = [ChunkLatents(index, chunk.cpu(), frames) for index, chunk in enumerate(chunks)]
        height, width = (side * self.spec.spatial_compression_ratio for side in chunks[0].shape[-2:])
        images = decode_chunks(embedder, stream, height=height, width=width, options=options, convert=convert)
        end = None if self.frames is None else self.skip_frames + self.frames
        for image in islice(images, self.skip_frames, end):
            yield image[: self.height, : self.width]


class VideoGenerator:
    """A generator with the embedder of its latents, and its text encoder if it reads texts."""

    def __init__(
        self, model: LatentGenerator, embedder: Autoencoder, text_encoder: TextEncoder | None = None
    ) -> None:
        self.model, self.embedder, self.text_encoder = model, embedder, text_encoder
        self.latent_spec = model.latent_spec
        _check_embedder(self.latent_spec, embedder)

    def shape(
        self, frames: int | None = None, size: Size | None = None, continues: bool = False
    ) -> VideoShape:
        """The shape of requested videos (see `video_shape`)."""
        return video_shape(self.latent_spec, self.model.config.patch_size, frames, size, continues)

    def check_prompts(
        self, prompts: Sequence[str], classes: Sequence[str], negative: Sequence[str] = ()
    ) -> None:
        """Raises ValueError for a prompt, class or negative prompt that the model needs or can't take."""
        if names := list(self.model.config.classes or ()):
            if prompts or not classes:
                listed = ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")
                no_prompt = ", not a prompt" if prompts else ""
                raise ValueError(f"This generator needs a class{no_prompt}, one of: {listed}.")
        elif self.model.config.text_width:
            if classes or not prompts:
                raise ValueError(f"This generator needs a prompt{', not a class' if classes else ''}.")
        elif prompts or classes:
            raise ValueError("This generator is unconditional; leave the prompt or class out.")
        if negative and not self.model.config.text_width:
            raise ValueError("This generator reads no texts; leave the negative prompt out.")

    def condition(self, prompts: Sequence[str], classes: Sequence[str]) -> Condition:
        """A condition per prompt or class, or one for all (see `check_prompts`)."""
        self.check_prompts(prompts, classes)
        if self.model.config.classes:
            return Condition(label=self.model.labels(classes))
        return self._encode_prompts(prompts) if self.model.config.text_width else Condition()

    def negative_condition(self, prompts: Sequence[str], count: int) -> Condition | None:
        """What guidance leads away from, for all or each. Raises ValueError if the model reads no texts."""
        if not prompts:
            return None
        if not self.model.config.text_width:
            raise ValueError("This generator reads no texts; leave the negative prompt out.")
        if len(prompts) not in (1, count):
            raise ValueError(f"Give 1 negative prompt, or {count}, one for each video, not {len(prompts)}.")
        return self._encode_prompts(list(prompts) * (count if len(prompts) == 1 else 1))

    def prompt_warnings(self, prompts: Sequence[str]) -> list[str]:
        """Warnings about prompts longer than the encoder reads, and unlike the captions of the training."""
        if self.text_encoder is None:
            return []
        distinct = [*dict.fromkeys(prompts)]
        found = [self.text_encoder.truncation(prompt) for prompt in distinct]
        words = (self.model.config.text_encoder or {}).get("words") or []
        found += [unusual_prompt(prompt, words) for prompt in distinct]
        return [warning for warning in found if warning is not None]

    def encode_images(self, images: Sequence[Image], shape: VideoShape) -> GivenFrames:
        """Images as first frames, resized and cropped. Raises ValueError unless the embedder is causal."""
        if not isinstance(self.embedder, PyramidAutoencoder):
            raise ValueError(
                "An image can be given only to a causal embedder (REGEN, MAGVIT-v2), and "
                f"{self.latent_spec.embedder} is not; leave the image out."
            )
        if shape.is_image:
            raise ValueError("With a given image there must be at least 2 frames, got 1.")
        return GivenFrames(collate([self._encode(image[None], shape, None)[0] for image in images]), 1)

    def encode_last_chunk(
        self, frames: UInt8[Tensor, "t h w 3"], shape: VideoShape, num_latents: FixedLength | None = None
    ) -> GivenFrames:
        """The last chunk of a video, for new frames after it. Raises ValueError for less than a chunk."""
        needed = self.latent_spec.chunk_frames
        if len(frames) < needed:
            raise ValueError(
                f"A video to continue must have at least {needed} frames, got {len(frames)}; give a longer "
                "one, or one image."
            )
        return GivenFrames(self._encode(frames[-needed:], shape, num_latents), self.latent_spec.chunk_latents)

    def sample(
        self,
        shape: VideoShape,
        condition: Condition,
        generators: list[Generator],
        options: SampleOptions = DEFAULT_SAMPLING,
        given: GivenFrames | None = None,
        negative: Condition | None = None,
        num_latents: FixedLength | None = None,
        on_step: OnStep = lambda step, latents: latents,
        noise: Latents | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> list[GeneratedLatents]:
        """Latents of one video per generator, the source of all its randomness (see `sample_video`)."""
        check_lengths(self.embedder, num_latents)
        spec, device = self.latent_spec, self.model.device
        condition = condition.to(device)
        labels = [0] * len(generators) if condition.label is None else condition.label.tolist()
        segments = sample_video(
            self.model,
            condition,
            LatentTemplates(spec, self.embedder, shape, generators, labels, num_latents, device),
            shape.num_chunks + shape.continues,
            generators,
            options,
            given,
            None if negative is None else negative.to(device),
            on_step,
            noise,
            should_stop,
        )
        skip = spec.chunk_frames if shape.continues else 0
        rest = (shape.height, shape.width, spec, shape.frames, skip)
        return [GeneratedLatents([row[i] for row in segments], *rest) for i in range(len(generators))]

    def _encode_prompts(self, prompts: Sequence[str]) -> Condition:
        assert self.text_encoder is not None, "a generator that reads texts has a text encoder"
        return Condition.from_text(embed_prompts(self.text_encoder, prompts))

    @torch.inference_mode()
    def _encode(
        self, frames: UInt8[Tensor, "t h w 3"], shape: VideoShape, num_latents: FixedLength | None
    ) -> Latents:
        """Frames, resized and padded to the generated size, as a batch of one."""
        embedder, scale = self.embedder, self.latent_spec.spatial_compression_ratio
        size = Size(shape.height, shape.width)
        resized = torch.stack([resize_center_crop(frame, size) for frame in frames])
        clip = to_clip(resized, embedder.device, embedder.dtype)
        border = (0, shape.columns * scale - size.width, 0, shape.rows * scale - size.height, 0, 0)
        clip = F.pad(clip, border, mode="replicate")

        def encode(tile: Tile | None) -> Latents:
            if num_latents is not None:
                return truncate_to(num_latents, embedder, clip, 0, tile)
            return Latents.of(embedder.encode(clip, tile=tile).latent_dist.mode())

        return OomRetry(None).run(encode, *clip.shape[-2:])


def _check_embedder(spec: LatentSpec, embedder: Autoencoder) -> None:
    """Raise ValueError when the embedder's latents have another form than the generator's."""
    has_sequence = isinstance(embedder, HybridAutoencoder)
    latents = (embedder.latent_channels, embedder.spatial_compression_ratio, has_sequence)
    expected = (spec.channels, spec.spatial_compression_ratio, spec.has_sequence)
    if latents != expected or spec.chunk_frames not in (1, embedder.chunk_frames):
        raise ValueError(
            f"The generator needs an embedder with {spec.channels} latent channels and {spec.chunk_frames} "
            f"frames per chunk, got {embedder.latent_channels} and {embedder.chunk_frames}; give "
            f"{spec.embedder or 'the one it was trained with'}."
        )
