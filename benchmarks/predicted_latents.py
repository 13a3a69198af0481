"""Quality of decoders on predicted latents and on the encoder's own (One-DVA's post-training).

Post-training adapts a decoder to the errors of generated latents. Here latents of real videos are noised to
some levels and predicted back by a generator, with the class or caption of each video (NAME.cls, NAME.txt),
and each decoder decodes both. All decoders get the same latents and the same noise.
"""

from itertools import islice
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated

import torch
import tyro
from report import find_clips, finish, one_sentence_errors, use_threads
from rich.console import Console
from rich.progress import track
from torch import Tensor

from regen.codec.chunks import to_clip, to_image
from regen.data.catalog import open_collection
from regen.embedders.hybrid import HybridAutoencoder
from regen.generate.predictor import load_predictor
from regen.media.pixels import Size, parse_size, resize_center_crop
from regen.media.reader import VideoReader
from regen.metrics.psnr_ssim import psnr_per_frame
from regen.pretrained.models import encoder_hash, load
from regen.runtime import dtype_name, generator_for, pick_device, pick_dtype
from regen.train.distributed import DistributedContext

BATCH = 16


def main(
    data: tuple[Path, ...],
    generator: str,
    model: tuple[str, ...] = ("onedva-small",),
    levels: tuple[float, ...] = (0.1, 0.3, 0.6),
    size: str = "64",
    videos: int = 96,
    decode_steps: int = 1,
    seed: int = 0,
    threads: int = 0,
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    dtype: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
) -> None:
    """Measure the PSNR of decoders by clean and by predicted latents.

    Example: python benchmarks/predicted_latents.py --data WORLD --generator GEN --model onedva-small POST

    Args:
        data: Videos; the first chunk of each is taken.
        generator: It was trained on the latents of the first model.
        model: Models with the same encoder; the first one encodes.
        levels: Noise levels from which latents are predicted, from 0 to 1.
        size: N (N x N) or HEIGHTxWIDTH, in pixels.
        videos: At most so many.
        decode_steps: Denoising steps of the decoders.
        seed: All noise follows from it and the number of the video.
        threads: Threads of PyTorch; 0 is one per core.
        device: cpu, cuda or mps; by default the best one here.
        dtype: Of the decoders: bf16, fp16 or fp32; by default bf16 where the hardware has it.
    """
    use_threads(threads)
    target = pick_device(device)
    if not levels or not all(0 < level <= 1 for level in levels):
        raise ValueError("Give noise levels above 0 and up to 1 as --levels.")
    if len({encoder_hash(name) for name in model}) > 1:
        raise ValueError(
            "The models have different encoders; give those that differ in their decoders alone."
        )
    kind = pick_dtype(dtype, target)
    decoders = [hybrid(name, target, kind) for name in model]
    predict = load_predictor(generator, model[0], DistributedContext(target))
    files = find_clips(data, None)[:videos]
    conditions = predict.conditions(open_collection(files, None), Path(mkdtemp()))
    sums = {name: dict.fromkeys((0.0, *levels), 0.0) for name in model}
    for start in track(range(0, len(files), BATCH), "videos", console=Console(stderr=True)):
        group = files[start : start + BATCH]
        clips = torch.cat([first_chunk(file, decoders[0], parse_size(size)) for file in group])
        with torch.inference_mode():
            clean = decoders[0].encode(clips).latent_dist.mode()
            clean = clean.to(dtype=torch.float32)
            batch = conditions(range(start, start + len(group))) if conditions else {}
            batch = {key: value.to(target) for key, value in batch.items()}
            for level in sums[model[0]]:
                latents = clean
                if level:
                    noise = [generator_for(seed, start + i, device=target) for i in range(len(group))]
                    latents = predict(clean, torch.full((len(group),), level, device=target), noise, batch)
                for name, decoder in zip(model, decoders, strict=True):
                    noise = [generator_for(seed, start + i, 1, device=target) for i in range(len(group))]
                    made = decoder.decode(latents, steps=decode_steps, generator=noise).sample
                    sums[name][level] += float(psnr(clips, made).sum())
    figures = {
        Path(name).name: {str(level): total / len(files) for level, total in row.items()}
        for name, row in sums.items()
    }
    rows = [[name, *(f"{value:.2f}" for value in row.values())] for name, row in figures.items()]
    header = ["PSNR (dB)", "clean", *(f"from {level}" for level in levels)]
    facts = {"size": size, "videos": len(files), "decode_steps": decode_steps, "seed": seed}
    result = {"benchmark": "predicted_latents", **facts, "dtype": dtype_name(kind), "psnr": figures}
    finish(f"{len(files)} videos", header, rows, result, target)


def hybrid(name: str, device: torch.device, dtype: torch.dtype) -> HybridAutoencoder:
    """The model of that name. Raises ValueError for one without 1D latents."""
    model = load(name, device, dtype)
    if not isinstance(model, HybridAutoencoder):
        raise ValueError(f"{name} has no 1D latents; give a One-DVA model.")
    return model


def first_chunk(file: Path, model: HybridAutoencoder, size: Size) -> Tensor:
    """Its frames at this size, "1 3 t h w" in [-1, 1]; ValueError for a video that is shorter."""
    with VideoReader(file) as reader:
        frames = [resize_center_crop(frame.image, size) for frame in islice(reader, model.chunk_frames)]
    if len(frames) < model.chunk_frames:
        raise ValueError(f"{file.name} has fewer than {model.chunk_frames} frames; give longer videos.")
    return to_clip(torch.stack(frames), model.device, torch.float32)


def psnr(clips: Tensor, made: Tensor) -> Tensor:
    """Of each clip "3 t h w" of a batch, the mean over its frames in 8 bits."""
    pairs = (
        [torch.stack([to_image(frame) for frame in clip.movedim(1, 0)]) for clip in x] for x in (clips, made)
    )
    return torch.stack([psnr_per_frame(*pair).mean() for pair in zip(*pairs, strict=True)])


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
