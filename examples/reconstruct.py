"""A whole video through a model in a few lines: `python examples/reconstruct.py IN.mp4 OUT.mp4`."""

import sys
from pathlib import Path

from regen.codec.transcode import reconstruct_video
from regen.pretrained.models import DEFAULT_MODEL, load
from regen.runtime import pick_device, pick_dtype

device = pick_device()
model = load(DEFAULT_MODEL, device, pick_dtype(None, device))
report = reconstruct_video(model, Path(sys.argv[1]), Path(sys.argv[2]), name=DEFAULT_MODEL)
print(f"{report.frames} frames, {report.psnr:.2f} dB, {report.compression:.1f}x compression")
