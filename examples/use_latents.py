"""Latents of a video, chunk by chunk, and a use of them: `python examples/use_latents.py IN.mp4`.

Prints the latents' shapes, and writes slow.mp4: every chunk decoded at four times as many moments.
"""

import sys
from pathlib import Path

import torch
from einops import rearrange

from regen.codec.chunks import encode_frames
from regen.data.video import VideoReader, VideoWriter
from regen.pretrained import DEFAULT_MODEL, load
from regen.runtime import generator_for, pick_device, pick_dtype

device = pick_device()
model = load(DEFAULT_MODEL, device, pick_dtype(None, device))
k = model.temporal_compression_ratio

with VideoReader(Path(sys.argv[1])) as video:
    info = video.info
    chunks = list(encode_frames(model, (frame.image for frame in video)))
print(
    f"{len(chunks)} chunks, each {tuple(chunks[0].latents.shape)}: channels, (content, motion), height, width"
)

times = torch.linspace(0, 1, 4 * k + 1)
with (
    torch.inference_mode(),
    VideoWriter(Path("slow.mp4"), info.width, info.height, info.frame_rate) as writer,
):
    for chunk in chunks:
        latents = chunk.latents[None].to(device)
        clip = model.decode(latents, times=times, generator=generator_for(0, chunk.index)).sample
        pixels = ((clip.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
        for image in rearrange(pixels, "1 c t h w -> t h w c"):
            writer.write(image[: info.height, : info.width])
