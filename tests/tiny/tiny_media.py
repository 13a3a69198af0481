"""Tiny models and small media files, for the tests of everything that works on whole files."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from movies import make_movie
from PIL import Image
from tiny_networks import awake

from regen.codec.chunks import ChunkLatents
from regen.embedders.magvit2 import AutoencoderMagvit2
from regen.embedders.one_dva import AutoencoderOneDVA
from regen.embedders.regen import AutoencoderRegen
from regen.latents import Latents
from regen.media.reader import VideoWriter
from regen.pretrained.models import Autoencoder


def tiny_regen(latent_channels: int = 4) -> AutoencoderRegen:
    """A model of the real class with random weights, which answers in a hundredth of a second."""
    model = AutoencoderRegen(
        latent_channels=latent_channels, encoder_widths=(12, 12, 12, 12), encoder_blocks=1,
        width=32, depth=1, heads=2, siren_width=16,
    )  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def tiny_magvit2() -> AutoencoderMagvit2:
    """The baseline: chunks of 17 frames, 5 latent frames, no noise."""
    return AutoencoderMagvit2(
        latent_channels=4, encoder_widths=(8, 8, 8, 8), encoder_blocks=1, encoder_patch_size=4
    ).eval()


def tiny_onedva() -> AutoencoderOneDVA:
    """Chunks of 5 frames, 2 latent frames, up to 8 1D latents for each region of 32 x 32 pixels.

    Its layers that begin at zero are filled, so that each latent acts on the frames.
    """
    model = AutoencoderOneDVA(
        latent_channels=4, encoder_width=24, encoder_depth=1, encoder_heads=2, width=24, depth=1, heads=2,
        pixel_channels=2, num_queries=20, region_size=2, chunk_frames=5,
        query_positions="anchored", length_rule={"multiple": 1, "motion_range": (0.01, 0.1)},
    )  # fmt: skip
    return awake(model, std=0.3).eval()


def long_onedva(std: float) -> AutoencoderOneDVA:
    """Chunks of 17 frames, in patches of 4 frames and 16 x 16 pixels; weights of deviation `std`."""
    model = AutoencoderOneDVA(
        latent_channels=4, encoder_width=24, encoder_depth=1, encoder_heads=2, width=24, depth=1, heads=2,
        pixel_channels=2, num_queries=20, region_size=2, length_rule={"multiple": 4},
        query_positions="anchored", chunk_frames=17,
    )  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return model.eval()


EMBEDDERS: dict[str, Callable[[], Autoencoder]] = {
    "regen": tiny_regen,
    "magvit2": tiny_magvit2,
    "onedva": tiny_onedva,
}


def random_chunks(model: Autoencoder, frames: int, places: tuple[int, int]) -> list[ChunkLatents]:
    """Random latents of a video of `frames` frames, of `places` (rows, columns); 1D latents of any number."""
    chunk = model.chunk_frames
    counts = [min(chunk, frames - start) for start in range(0, frames, chunk)]
    length = 1 if frames == 1 else chunk
    height, width = (side * model.spatial_compression_ratio for side in places)
    with torch.inference_mode():
        like = Latents.of(model.encode(torch.zeros(1, 3, length, height, width)).latent_dist.mode())[0]
    chunks = []
    for index, count in enumerate(counts):
        latents = Latents.of(torch.randn(like.shape))
        if isinstance(model, AutoencoderOneDVA):
            budgets = torch.tensor(model.budgets(length, height, width))
            lengths = (torch.rand(len(budgets)) * (budgets + 1)).long()
            latents = Latents(latents.grid, torch.randn(len(like.grid), int(lengths.sum())), lengths)
        chunks.append(ChunkLatents(index, latents, count))
    return chunks


def same_latents(one: Latents, other: Latents) -> bool:
    parts = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(torch.equal(a, b) for a, b in parts)


def record_frames(monkeypatch: pytest.MonkeyPatch) -> list[list[torch.Tensor]]:
    """The frames given to each VideoWriter from now on, for tests of what is coded and not of the coding."""
    written: list[list[torch.Tensor]] = []
    lists: dict[VideoWriter, list[torch.Tensor]] = {}
    write = VideoWriter.write

    def recorded(writer: VideoWriter, image: torch.Tensor, time: float | None = None) -> None:
        if writer not in lists:
            lists[writer] = []
            written.append(lists[writer])
        lists[writer].append(image.clone())
        write(writer, image, time)

    monkeypatch.setattr(VideoWriter, "write", recorded)
    return written


def picture(index: int, height: int, width: int) -> np.ndarray:
    """A colour gradient that moves with `index`."""
    rows, columns = np.mgrid[:height, :width]
    channels = [rows * 5 + index * 9, columns * 7, (rows + columns) * 3 - index * 20]
    return np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8)


def make_image(path: Path, height: int = 20, width: int = 28) -> Path:
    Image.fromarray(picture(0, height, width)).save(path)
    return path


def make_video(
    path: Path,
    frames: int = 7,
    height: int = 24,
    width: int = 40,
    rate: Fraction = Fraction(30000, 1001),
    times: list[float] | None = None,
    sound: str | None = None,
) -> Path:
    """H.264 of moving gradients; `times` in seconds for a variable rate; `sound`: codec of a tone."""
    pixel_format = "yuv444p" if width % 2 or height % 2 else "yuv420p"
    images = [picture(index, height, width) for index in range(frames)]
    return make_movie(
        path, images, pixel_format=pixel_format, rate=rate, times=times, audio=sound, options={"bf": "0"}
    )
