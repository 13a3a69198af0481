"""Latents of a video, chunk by chunk, and a use of them: `python examples/use_latents.py IN.mp4`.

Prints the latents' shapes, and writes slow.mp4 (--output): every chunk decoded at four times the frame rate.
"""

from argparse import ArgumentParser
from pathlib import Path

from regen.codec.sessions import DecodeOptions, DecodeSession, EncodeSession
from regen.media.reader import VideoReader, VideoWriter
from regen.pretrained.listing import DEFAULT_MODEL
from regen.pretrained.models import load
from regen.runtime import pick_device, pick_dtype

parser = ArgumentParser(description=__doc__)
parser.add_argument("input", type=Path, help="the video")
parser.add_argument(
    "--output", type=Path, default=Path("slow.mp4"), help="the video at a quarter of its speed"
)
parser.add_argument(
    "--model", default=DEFAULT_MODEL, help="a REGEN model: a name from regen models, or a folder"
)
arguments = parser.parse_args()

device = pick_device()
model = load(arguments.model, device, pick_dtype(None, device))

encoder = EncodeSession(model)  # holds the frames that wait for their chunk; the model holds nothing
with VideoReader(arguments.input) as video:
    info = video.info
    chunks = [chunk for frame in video for chunk in encoder.feed([frame.image])]
    chunks += encoder.flush()
shape = tuple(chunks[0].latents.shape)
print(f"{len(chunks)} chunks, each {shape}: channels, (content, motion), height, width")

decoder = DecodeSession(model, height=info.height, width=info.width, options=DecodeOptions(seed=0))
with VideoWriter(arguments.output, info.width, info.height, info.frame_rate) as writer:
    for chunk in chunks:
        times = [quarter / 4 for quarter in range(4 * chunk.frames)]  # in frames after the chunk's first
        for image in decoder.feed(chunk, times):
            writer.write(image)
