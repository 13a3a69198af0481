"""A video from a sentence: `python examples/text_to_video.py "a red circle moves to the left" OUT.mp4`.

The same as `regen generate`, through a pipeline in the conventions of diffusers.
"""

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from regen import RegenTextToVideoPipeline
from regen.media.reader import VideoWriter
from regen.runtime import pick_device, pick_dtype

device = pick_device()
dtype = pick_dtype(None, device)
pipeline = RegenTextToVideoPipeline.from_pretrained("t2v-world", torch_dtype=dtype).to(device)
seeded = torch.Generator().manual_seed(0)
frames = pipeline(sys.argv[1], num_inference_steps=30, guidance_scale=4.0, generator=seeded).frames[0]

rate = Fraction(pipeline.generator.latent_spec.frame_rate)
with VideoWriter(Path(sys.argv[2]), *frames[0].size, rate) as writer:
    for image in frames:  # PIL images; output_type "np", "pt" and "latent" give arrays, tensors and latents
        writer.write(torch.from_numpy(np.array(image)))
