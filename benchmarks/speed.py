"""How fast a model encodes and decodes video, in frames per second, each apart.

What is timed is what `regen` does with decoded frames: 8-bit frames to latents, and latents to 8-bit frames.
Reading and writing video files is left out. The content of the frames does not matter, so noise is used.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Annotated

import torch
import tyro
from report import finish, one_sentence_errors, use_threads
from torch import Tensor

from regen.codec.chunks import decode_chunk, encode_chunk, split_into_chunks
from regen.evaluate.protocol import parse_size
from regen.pretrained import DEFAULT_MODEL, Autoencoder, load
from regen.runtime import keep_freed_memory, name_of, pick_device, pick_dtype


def main(
    model: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    size: str = "256",
    steps: int = 1,
    chunks: int = 12,
    threads: int = 2,
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    dtype: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
) -> None:
    """Measure encoding and decoding speed; nothing else should run on the machine.

    Example: python benchmarks/speed.py --model linear-4x --model regen-small-4x --threads 2

    Args:
        model: A name from `regen models` or a folder; repeat it to compare models.
        size: N (N x N) or HEIGHTxWIDTH, in pixels.
        steps: Denoising steps of the decoder.
        chunks: Chunks to time after one for warm-up; the median counts.
        threads: Threads of PyTorch; 0 is one per core.
        device: cpu, cuda or mps; by default the best one here.
        dtype: bf16, fp16 or fp32; by default bf16 where the hardware has it.
    """
    use_threads(threads)
    keep_freed_memory()
    if chunks < 1:
        raise ValueError(f"{chunks} chunks can't be timed; give --chunks 1 or more.")
    target = pick_device(device)
    precision = pick_dtype(dtype, target)
    area = parse_size(size)
    results = {}
    for name in model or (DEFAULT_MODEL,):
        embedder = load(name, target, precision)
        frames = torch.randint(0, 256, (embedder.chunk_frames, area.height, area.width, 3), dtype=torch.uint8)
        results[name] = measure(embedder, frames, steps, chunks)
    finish(
        f"Frames per second at {area}, {steps} step{'s' if steps > 1 else ''}, {name_of(precision)}",
        ["model", "encode", "decode", "both"],
        [[name, *(f"{value:.1f}" for value in rates.values())] for name, rates in results.items()],
        {
            "benchmark": "speed",
            "size": str(area),
            "steps": steps,
            "dtype": name_of(precision),
            "models": results,
        },
        target,
    )


def measure(embedder: Autoencoder, frames: Tensor, steps: int, repeats: int) -> dict[str, float]:
    """Frames per second of encoding, decoding and both; results end on the CPU, so a GPU is done by then."""
    (chunk,) = split_into_chunks(frames, len(frames))
    height, width = frames.shape[1:3]
    latents = encode_chunk(embedder, chunk)
    encoding = seconds(lambda: encode_chunk(embedder, chunk), repeats)
    decoding = seconds(
        lambda: decode_chunk(embedder, latents, height=height, width=width, steps=steps, seed=0), repeats
    )
    count = len(frames)
    return {
        "encode_fps": count / encoding,
        "decode_fps": count / decoding,
        "reconstruct_fps": count / (encoding + decoding),
    }


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Median duration of a call, after one for warm-up."""
    function()
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        durations.append(time.perf_counter() - start)
    return median(durations)


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
