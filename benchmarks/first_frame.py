"""How long a viewer waits for the first frame of a stream, and what a session holds between chunks.

A session gets the latents of one chunk after the other, as a world model makes them. Measured is the time
until it returns the frames of the first chunk, and of later ones, on the clock and of the processor; and the
bytes of all tensors that the session holds between two chunks, which depend on the size of the picture and
the steps, not on the model: they are the same at the size of the paper. Operations are those of the first
chunk. For Wan's decoder of diffusers (--wan), which carries features from frame to frame, the bytes are
counted without computing.
"""

import time
from typing import Annotated, Any

import torch
import tyro
from published import PUBLISHED
from report import finish, one_sentence_errors, use_threads
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from regen.codec.chunks import ChunkLatents
from regen.codec.sessions import DecodeOptions, DecodeSession
from regen.latents import Latents
from regen.media.pixels import Size, parse_size
from regen.metrics.cost import count_matmuls, total_flops
from regen.pretrained.listing import DEFAULT_MODEL
from regen.pretrained.models import Autoencoder, load
from regen.runtime import dtype_name, pick_device, pick_dtype

Figures = dict[str, Any]
CHUNKS = 3


def main(
    model: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    size: str = "256",
    steps: Annotated[tuple[int, ...], tyro.conf.UseAppendAction] = (),
    wan: bool = False,
    repeats: int = 5,
    threads: int = 1,
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    dtype: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
) -> None:
    """Measure the latency of the first frame and the state of a decoding session.

    Example: python benchmarks/first_frame.py --model regen-small-4x --steps 1 --steps 4

    Args:
        model: A name from `regen models` or a folder; repeat it.
        size: N (N x N) or HEIGHTxWIDTH, in pixels.
        steps: Denoising steps; repeat it. By default 1.
        wan: Count the state of Wan 2.1's decoder, too.
        repeats: Sessions; the shortest times count.
        threads: Threads of PyTorch; 0 is one per core.
        device: cpu, cuda or mps; by default the best one here.
        dtype: bf16, fp16 or fp32; by default bf16 where the hardware has it.
    """
    use_threads(threads)
    if repeats < 1:
        raise ValueError(f"--repeats must be >= 1, got {repeats}.")
    target, shape = pick_device(device), parse_size(size)
    precision = pick_dtype(dtype, target)
    results: Figures = {}
    for name in model or (DEFAULT_MODEL,):
        loaded = load(name, target, precision)
        for count in steps or (1,):
            results[f"{name}, {count} step{'s' * (count > 1)}"] = measure(loaded, shape, count, repeats)
    if wan:
        results["wan-2.1 (counted)"] = {"state_bytes": wan_state_bytes(shape, precision)}
    columns = (
        "chunk_frames",
        "first_frame_ms",
        "later_chunks_ms",
        "processor_ms",
        "first_chunk_gflop",
        "state_bytes",
    )
    finish(
        f"The first frame of a stream of {shape}, {dtype_name(precision)}",
        ["model", *(column.replace("_", " ") for column in columns)],
        [[name, *(text(figures.get(column)) for column in columns)] for name, figures in results.items()],
        {"benchmark": "first-frame", "size": str(shape), "dtype": dtype_name(precision), "models": results},
        target,
    )


def measure(model: Autoencoder, size: Size, steps: int, repeats: int) -> Figures:
    """Times of the first chunk and of later ones, the operations of the first, and the session's state."""
    clip = torch.rand(1, 3, model.chunk_frames, size.height, size.width) * 2 - 1
    with torch.inference_mode():
        whole = Latents.of(model.encode(clip.to(model.device, model.dtype)).latent_dist.mode())
        products = count_matmuls(lambda: model.decode(whole.for_decoder(), steps=steps))
    chunks = [ChunkLatents(index, whole[0].cpu(), model.chunk_frames) for index in range(CHUNKS)]
    first: list[float] = []
    later: list[float] = []
    cpu: list[float] = []
    state: list[int] = []
    for _ in range(1 + repeats):  # the first session warms up
        session = DecodeSession(
            model, height=size.height, width=size.width, options=DecodeOptions(steps=steps)
        )
        for chunk in chunks:
            start, before = time.perf_counter(), time.process_time()
            frames = session.feed(chunk)
            (later if chunk.index else first).append(time.perf_counter() - start)
            cpu.append(time.process_time() - before)
            assert len(frames) == model.chunk_frames
            state.append(bytes_held(session))
    return {
        "chunk_frames": model.chunk_frames,
        "first_frame_ms": 1e3 * min(first[1:]),
        "later_chunks_ms": 1e3 * min(later[CHUNKS - 1 :]),
        "processor_ms": 1e3 * min(cpu[CHUNKS:]),
        "first_chunk_gflop": total_flops(products) / 1e9,
        "state_bytes": max(state),
        "weights_bytes": sum(weight.nbytes for weight in model.parameters()),
    }


def bytes_held(session: DecodeSession) -> int:
    """Bytes of the tensors that a session keeps for the next chunk."""
    previous = session._previous
    held = [session._pending, [] if previous is None else [previous.trajectory, previous.frame]]
    return sum(leaf.nbytes for leaf in tree_leaves(held) if isinstance(leaf, Tensor))


def wan_state_bytes(size: Size, dtype: torch.dtype) -> int:
    """Bytes of the features that diffusers' Wan 2.1 decoder carries from one latent frame to the next."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        vae: Any = PUBLISHED["wan-2.1"](33).networks[0]
        found: list[int] = []
        clear = vae.clear_cache

        def count_and_clear() -> None:
            held = getattr(vae, "_feat_map", [])
            found.append(sum(leaf.numel() for leaf in tree_leaves(held) if isinstance(leaf, Tensor)))
            clear()

        vae.clear_cache = count_and_clear
        vae.decode(torch.zeros(1, 16, 3, size.height // 8, size.width // 8))
    return max(found) * dtype.itemsize


def text(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else f"{value:,}"


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
