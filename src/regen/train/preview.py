"""Preview: the evaluation of a training on held-out clips, with a picture."""

from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from regen.data.batches import Clips
from regen.data.clips import ClipSpec
from regen.embedders.base import VideoAutoencoder, without_margin
from regen.media.pixels import uint8_to_signed
from regen.runtime import generator_for, pick_dtype
from regen.train.distributed import DistributedContext
from regen.train.lifecycle import ShouldStop
from regen.train.recipe import Recipe

PREVIEW_CLIPS = 4  # in a picture


class Preview:
    """Evaluation on the same validation clips every time: PSNR of one-step reconstructions, and a picture."""

    def __init__(self, clips: Clips, recipe: Recipe, frames: int, folder: Path, context: DistributedContext):
        clips.require_length(frames)
        self.clips, self.frames, self.folder, self.context = clips, frames, folder, context
        stage, self.count, self.seed = recipe.data.stages[-1], recipe.data.num_val_clips, recipe.loop.seed
        self.margin = stage.margin
        self.size = stage.height + 2 * stage.margin, stage.width + 2 * stage.margin
        self.dtype = pick_dtype(recipe.loop.mixed_precision, context.device)

    def __call__(self, model: nn.Module, step: int, should_stop: ShouldStop) -> dict[str, float] | None:
        """Mean PSNR in dB, None when stopped early; all processes compute it, for sharded models need all."""
        assert isinstance(model, VideoAutoencoder)
        originals, videos, psnr, device = [], [], [], self.context.device
        for i in range(self.count):
            if should_stop():
                return None
            sample = self.clips.sample(i, ClipSpec(self.frames, self.size), self.seed)
            clip = uint8_to_signed(sample.video)[None]
            with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
                if sample.latents is None:
                    latents = model.encode(clip.to(device)).latent_dist.mode()
                else:
                    latents = sample.latents[None].to(device, model.dtype)
                generator = generator_for(self.seed)
                video = model.decode(latents, steps=model.min_steps, generator=generator).sample
            video = video[..., : self.size[0], : self.size[1]].clamp(-1, 1).float().cpu()
            video, clip = without_margin(video, self.margin), without_margin(clip, self.margin)
            psnr.append(-10 * torch.log10((video - clip).square().mean() / 4).item())
            originals.append(clip)
            videos.append(video)
        if self.context.is_main:
            path = self.folder / f"step-{step:08d}.png"
            save_preview(path, torch.cat(originals), torch.cat(videos))
        return {"psnr": sum(psnr) / len(psnr)}


def save_preview(
    path: Path, original: Float[Tensor, "b 3 t h w"], reconstruction: Float[Tensor, "b 3 t h w"]
) -> None:
    """Write a PNG of the first clips' frames above those of their reconstructions, both RGB in [-1, 1]."""
    pairs = torch.stack([original[:PREVIEW_CLIPS], reconstruction[:PREVIEW_CLIPS]]).detach().float().cpu()
    grid = rearrange(pairs, "pair b c t h w -> (b pair h) (t w) c")
    pixels = ((grid.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.numpy()).save(path, format="PNG")
