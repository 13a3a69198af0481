"""Three forms of compression, against the shapes that encoding really gives."""

import pytest
import torch
from tiny_benchmark import tiny_one_dva
from tiny_diffusers_models import cogvideox, ltx, mochi
from tiny_media import tiny_regen

from regen.codec.report import Compression, LatentCounter, clip_compression, model_compression
from regen.embedders.diffusers_adapter import DiffusersAdapter
from regen.embedders.diffusers_models import CogVideoXAdapter, LTXAdapter
from regen.embedders.interface import Embedder
from regen.embedders.linear import AutoencoderLinear
from regen.embedders.magvit2 import AutoencoderMagvit2


def tiny_magvit2(ratio: int) -> AutoencoderMagvit2:
    widths = (8,) * (4 if ratio == 4 else 5)
    return AutoencoderMagvit2(ratio, latent_channels=4, encoder_widths=widths, encoder_blocks=1).eval()


def models() -> dict[str, Embedder]:
    return {
        "regen": tiny_regen(4),
        "linear": AutoencoderLinear(8, 3).eval(),
        "magvit2-4x": tiny_magvit2(4),
        "magvit2-32x": tiny_magvit2(32),
        "cogvideox": CogVideoXAdapter(cogvideox()),
        "ltx": LTXAdapter(ltx()),
        "mochi": DiffusersAdapter(mochi(), 13),
    }


@pytest.mark.parametrize(
    ("name", "ratio", "frames", "latent_frames", "channels", "side"),
    [
        ("regen", 4, 5, 2, 4, 8),
        ("linear", 8, 9, 2, 3, 8),
        ("magvit2-4x", 4, 17, 5, 4, 8),
        ("magvit2-32x", 32, 33, 2, 4, 8),
        ("cogvideox", 4, 33, 9, 2, 8),
        ("ltx", 8, 33, 5, 4, 16),
        ("mochi", 6, 13, 3, 2, 8),
    ],
)
def test_compression_of_a_full_chunk(
    name: str, ratio: int, frames: int, latent_frames: int, channels: int, side: int
) -> None:
    result = model_compression(models()[name], 64, 96)
    assert result.ratio == ratio
    values = channels * latent_frames * (64 // side) * (96 // side)
    assert result.compression_factor == pytest.approx(3 * frames * 64 * 96 / values)
    assert result.latent_frames_per_frame == pytest.approx(latent_frames / frames)
    assert result.frames_per_latent == pytest.approx(frames / latent_frames)


@pytest.mark.parametrize(
    ("ratio", "eight", "sixteen"), [(4, 48, 24), (8, 96, 48), (16, 192, 96), (32, 384, 192)]
)
def test_nominal_factor_of_regen_is_that_of_its_supplement(ratio: int, eight: int, sixteen: int) -> None:
    """C H W (T - 1) / (c h w t) for k + 1 frames in 2 latent frames of (H / 8) x (W / 8): 96 k / c."""
    for channels, expected in ((8, eight), (16, sixteen)):
        result = model_compression(AutoencoderLinear(ratio, channels).eval(), 64, 96)
        assert result.nominal_compression_factor == pytest.approx(expected)
        assert result.compression_factor == pytest.approx(expected * (ratio + 1) / ratio)


@pytest.mark.parametrize("name", ["magvit2-4x", "magvit2-32x", "cogvideox", "ltx", "mochi"])
def test_nominal_factor_leaves_out_one_frame_of_each_chunk(name: str) -> None:
    model = models()[name]
    result = model_compression(model, 64, 96)
    frames = model.chunk_frames
    assert result.nominal_compression_factor == pytest.approx(
        result.compression_factor * (frames - 1) / frames
    )


def test_padding_counts_against_the_model() -> None:
    model = tiny_regen()
    even, odd = model_compression(model, 16, 16), model_compression(model, 9, 10)
    assert odd.compression_factor == pytest.approx(even.compression_factor * 90 / 256)
    assert odd.frames_per_latent == even.frames_per_latent


@torch.inference_mode()
def test_nothing_is_computed_and_nothing_stays() -> None:
    model = models()["ltx"]
    clip = torch.rand(1, 3, 33, 16, 16)
    before = model.encode(clip).latent_dist.mode()
    assert (
        model_compression(model, 65536, 65536).compression_factor
        == model_compression(model, 16, 16).compression_factor
    )
    assert torch.equal(model.encode(clip).latent_dist.mode(), before)


def of_lengths(frames: int, *lengths: int) -> Compression:
    """Of a clip of 32 x 48 pixels whose chunks keep so many 1D latents."""
    model, tally = tiny_one_dva(), LatentCounter()
    for length in lengths:
        clip = torch.zeros(1, 3, 17 if frames > 1 else 1, 32, 48)
        tally.add(model.encode(clip, length=length).latent_dist.mode()[0])
    return clip_compression(model, tally, frames, 32, 48)


@torch.inference_mode()
def test_an_adaptive_length_is_that_of_the_chunks() -> None:
    pixels, grid = 3 * 17 * 32 * 48, 4 * 5 * 2 * 3
    alone, all_of_it = of_lengths(34, 0, 0), of_lengths(34, 30, 30)
    assert alone.compression_factor == pytest.approx(pixels / grid)
    assert all_of_it.compression_factor == pytest.approx(pixels / (2 * grid))
    assert of_lengths(34, 30, 0).compression_factor == pytest.approx(2 * pixels / (3 * grid))
    for forms in (alone, all_of_it):
        assert (forms.ratio, forms.frames_per_latent) == (4, 17 / 5)
        assert forms.latent_frames_per_frame == pytest.approx(5 / 17)
    assert of_lengths(1, 3).compression_factor == pytest.approx(3 * 32 * 48 / (4 * (6 + 3)))
    assert of_lengths(1, 3).frames_per_latent == 1
    nominal = of_lengths(34, 30, 0).nominal_compression_factor
    assert nominal == pytest.approx(2 * pixels / (3 * grid) * 16 / 17)
    assert of_lengths(1, 3).nominal_compression_factor == of_lengths(1, 3).compression_factor


@torch.inference_mode()
def test_padding_of_the_last_chunk_is_not_counted() -> None:
    """Frames are charged their part of their own chunk, so a short last one weighs little."""
    assert of_lengths(20, 8, 8).compression_factor == pytest.approx(of_lengths(17, 8).compression_factor)
    shorter = of_lengths(18, 30, 0).compression_factor
    assert of_lengths(17, 30).compression_factor < shorter < of_lengths(34, 30, 0).compression_factor
    assert shorter == pytest.approx(3 * 18 * 32 * 48 / (4 * (30 + 30) + 4 * 30 / 17))
