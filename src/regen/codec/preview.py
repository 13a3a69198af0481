"""Previews of encoded videos: a linear map of their latents in place of the decoder."""

from collections.abc import Iterator

import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

from regen.codec.chunks import to_image
from regen.codec.latent_file import LatentVideo
from regen.embedders.preview import Maps, preview

CHUNKS = 16  # that are mapped together, which bounds memory


@torch.inference_mode()
def preview_frames(video: LatentVideo, maps: Maps, stride: int) -> Iterator[UInt8[Tensor, "h w 3"]]:
    """The frames of a video by the maps of its model, enlarged by `stride`, the model's spatial ratio."""
    left = len(video.times)
    for grid in video.latents.grid.float().split(CHUNKS):
        frames = rearrange(preview(maps, grid), "k c t y x -> (k t) c y x")[:left]
        left -= len(frames)
        large = F.interpolate(frames, scale_factor=stride, mode="bilinear", align_corners=False)
        yield from map(to_image, large[:, :, : video.height, : video.width])
