"""A video from a sentence: `python examples/text_to_video.py PROMPT OUT.mp4`.

The same as `regen generate`, through a pipeline in the conventions of diffusers.
"""

from argparse import ArgumentParser
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from regen import RegenTextToVideoPipeline
from regen.media.reader import VideoWriter
from regen.runtime import pick_device, pick_dtype

parser = ArgumentParser(description=__doc__)
parser.add_argument(
    "prompt",
    help='such as "one large plain red circle moves left slowly on a dark background while the '
    'camera stays still"',
)
parser.add_argument("output", type=Path, help="the video")
parser.add_argument("--model", default="t2v-world", help="a generator from regen models, or a folder")
parser.add_argument("--steps", type=int, default=30, help="denoising steps")
parser.add_argument("--guidance-scale", type=float, default=4.0, help="how strongly the prompt counts")
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()

device = pick_device()
dtype = pick_dtype(None, device)
pipeline = RegenTextToVideoPipeline.from_pretrained(arguments.model, torch_dtype=dtype).to(device)
frames = pipeline(
    arguments.prompt,
    num_inference_steps=arguments.steps,
    guidance_scale=arguments.guidance_scale,
    generator=torch.Generator().manual_seed(arguments.seed),
).frames[0]

rate = Fraction(pipeline.generator.latent_spec.frame_rate)
with VideoWriter(arguments.output, *frames[0].size, rate) as writer:
    for image in frames:  # PIL images; output_type "np", "pt" and "latent" give arrays, tensors and latents
        writer.write(torch.from_numpy(np.array(image)))
