"""A whole video through a model in a few lines: `python examples/reconstruct.py IN.mp4 OUT.mp4`."""

from argparse import ArgumentParser
from pathlib import Path

from regen.codec.transcode import reconstruct_video
from regen.pretrained.listing import DEFAULT_MODEL
from regen.pretrained.models import load
from regen.runtime import pick_device, pick_dtype

parser = ArgumentParser(description=__doc__)
parser.add_argument("input", type=Path, help="the video")
parser.add_argument("output", type=Path, help="its reconstruction")
parser.add_argument("--model", default=DEFAULT_MODEL, help="a name from regen models, a folder or owner/name")
arguments = parser.parse_args()

device = pick_device()
model = load(arguments.model, device, pick_dtype(None, device))
report = reconstruct_video(model, arguments.input, arguments.output, name=arguments.model)
print(f"{report.frames} frames, {report.psnr:.2f} dB, {report.compression:.1f}x compression")
