"""A picture of generated videos, for the evaluations of a training: a row of frames for each."""

from pathlib import Path

import torch

from regen.generate.conditions import Condition
from regen.generate.contact_sheet import write_contact_sheet
from regen.generate.decoding import GeneratedLatents, decode
from regen.generate.generator import LatentGenerator
from regen.generate.latent_batches import LatentBatches
from regen.generate.sampling import SampleOptions, sample
from regen.latents import Latents
from regen.pretrained.models import load, weights_hash
from regen.runtime import generator_for
from regen.train.distributed import DistributedContext


class SamplePreview:
    """Generates the videos of the same held-out captions or classes at each evaluation.

    Raises ValueError when the embedder is not at hand, or is another one by now.
    """

    def __init__(
        self,
        batches: LatentBatches,
        count: int,
        options: SampleOptions,
        folder: Path,
        world: DistributedContext,
    ):
        manifest = batches.dataset.manifest
        batches.dataset.require_model(weights_hash(manifest.model))
        self.embedder = load(manifest.model, world.device, torch.float32)
        self.options, self.folder, self.draws = options, folder, world.is_main
        stage = batches.stages[-1]
        bucket = batches.buckets[stage, max(stage.chunks) if stage.image_share < 1 else 0][0]
        batch = batches.items(bucket, 0, range(count))
        self.size = bucket.height, bucket.width
        self.condition = Condition.from_batch(batch).to(world.device)
        self.blank = Latents.from_tensors(batch)

    def __call__(self, model: LatentGenerator, step: int) -> None:
        """Every process samples the same, because a model that they share needs them all; one draws."""
        count = len(self.blank)
        generators = [generator_for(0, number) for number in range(count)]
        latents = sample(model, self.condition, self.blank, generators, self.options)
        if not self.draws:
            return
        videos = []
        for number in range(count):
            one = GeneratedLatents([latents[number]], *self.size, model.latent_spec)
            videos.append((torch.stack(list(decode(self.embedder, one))), ""))
        self.folder.mkdir(parents=True, exist_ok=True)
        write_contact_sheet(self.folder / f"step-{step:08d}.png", videos)
