"""How smooth positions are in time: similarity of C_e(x, y, τ) to that of one frame, against τ.

Of the first chunk of each clip, at a fine grid of times from its first frame to its last; cosine similarity,
mean over places and clips. A smooth curve means that any time can be decoded; a staircase that times between
frames are decoded as one of the frames. "Evenness" is the mean step of the path of positions in time divided
by its largest one, without the step from the first frame, which has a rule of its own: 1 is a steady motion.
"""

from pathlib import Path
from typing import Annotated

import torch
import tyro
from interpolation_methods import read_clip
from jaxtyping import Float
from plots import check_plot, draw_lines
from report import find_clips, finish, one_sentence_errors, use_threads
from torch import Tensor
from torch.nn.functional import cosine_similarity

from regen.codec.chunks import to_clip
from regen.embedders.regen import AutoencoderRegen
from regen.media.pixels import parse_size
from regen.networks.conditioning import LatentConditioner
from regen.pretrained.listing import DEFAULT_MODEL
from regen.pretrained.models import load

POINTS_PER_FRAME = 20


def main(
    data: tuple[Path, ...],
    model: tuple[str, ...] = (DEFAULT_MODEL,),
    frame: int = 2,
    size: str = "128",
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None,
    threads: int = 0,
) -> None:
    """Measure how smoothly the decoder's positions move in time.

    Example: python benchmarks/positions.py --data clips/ --model regen-small-4x run/ --plot positions.png

    Args:
        data: Folders or files to measure on.
        model: Names from `regen models` or folders.
        frame: The frame to whose position all are compared.
        size: N (short side to N, centre N x N) or HEIGHTxWIDTH, in pixels.
        plot: Draw the similarities into this PNG.
        threads: Threads of PyTorch; 0 is one per core.
    """
    use_threads(threads)
    check_plot(plot)
    files, area = find_clips(data, None), parse_size(size)
    curves: dict[str, list[tuple[float, float]]] = {}
    evenness: dict[str, float] = {}
    for name in model:
        embedder = load(name, torch.device("cpu"), torch.float32)
        if not isinstance(getattr(embedder, "conditioner", None), LatentConditioner):
            raise ValueError(f"--model must have content-aware positions, got {name}.")
        assert isinstance(embedder, AutoencoderRegen)
        paths = [positions(embedder, read_clip(file, area, embedder.chunk_frames)) for file in files]
        path = torch.stack(paths)  # clip, time, place, width
        similarity = cosine_similarity(path, path[:, frame * POINTS_PER_FRAME, None], dim=-1).mean((0, 2))
        steps = path[:, 1:].diff(dim=1).norm(dim=-1).mean((0, 2))
        label = Path(name).name
        curves[label] = [(i / POINTS_PER_FRAME, float(value)) for i, value in enumerate(similarity)]
        evenness[label] = float(steps.mean() / steps.max())
    if plot is not None:
        draw_lines(
            plot, curves, "frame", f"similarity to the position of frame {frame}", markers=False,
            title=f"Positions in time, mean over {len(files)} clips at {area}",
        )  # fmt: skip
    finish(
        f"Positions in time, {len(files)} clips at {area}",
        ["", "evenness"],
        [[name, f"{value:.3f}"] for name, value in evenness.items()],
        {"benchmark": "positions", "frame": frame, "evenness": evenness, "similarity": curves},
        torch.device("cpu"),
    )


@torch.inference_mode()
def positions(model: AutoencoderRegen, frames: Tensor) -> Float[Tensor, "t n d"]:
    """The decoder's positions of a chunk at all times of the grid."""
    if len(frames) < model.chunk_frames:
        raise ValueError(f"A clip needs {model.chunk_frames} frames, got {len(frames)}.")
    latents = model.encode(to_clip(frames, model.device, model.dtype)).latent_dist.mode()
    times = torch.linspace(0, 1, POINTS_PER_FRAME * (model.chunk_frames - 1) + 1)
    return model.conditioner(model._raw(latents), times)[0].flatten(1, 2)


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
