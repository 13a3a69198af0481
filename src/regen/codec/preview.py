"""Previews of encoded videos: a linear map of their latents in place of the decoder."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

from regen.codec.chunks import to_image
from regen.codec.latent_file import LatentVideo
from regen.embedders.preview import RgbFactors, to_rgb
from regen.media.prefetch import background_writer
from regen.media.writer import VideoWriter

FRAMES = 64  # that are mapped and enlarged together, about


def preview_frames(
    video: LatentVideo, factors: RgbFactors, spatial_compression_ratio: int, numbers: Sequence[int]
) -> Iterator[UInt8[Tensor, "h w 3"]]:
    """The frames of these rising numbers, by the factors of the model that encoded the video, at its size."""
    count = len(video.times)
    done = 0
    for grid in video.latents.grid.split(max(1, FRAMES * len(video.latents) // count)):
        frames = rearrange(to_rgb(factors, grid), "m c t y x -> (m t) c y x")[: count - done]
        picked = frames[[number - done for number in numbers if 0 <= number - done < len(frames)]]
        done += len(frames)
        if len(picked):
            small = torch.stack([to_image(frame) for frame in picked]).permute(
                0, 3, 1, 2
            )  # channels last: fast
            large = F.interpolate(small, scale_factor=spatial_compression_ratio, mode="bilinear")
            yield from rearrange(large, "t c h w -> t h w c")[:, : video.height, : video.width]


def preview_video(
    video: LatentVideo, factors: RgbFactors, spatial_compression_ratio: int, output: Path
) -> None:
    """Write the preview of a video, or of an image, without sound. Raises ValueError or OSError."""
    frames = preview_frames(video, factors, spatial_compression_ratio, range(len(video.times)))
    size = video.width, video.height, video.frame_rate
    with (
        VideoWriter(output, *size, pixel_aspect=video.pixel_aspect) as writer,
        background_writer(writer.write) as hand_out,
    ):
        for frame, time in zip(frames, video.times.tolist(), strict=True):
            hand_out(frame, time)
