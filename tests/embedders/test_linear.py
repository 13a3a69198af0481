"""The linear embedder: its start at principal components, its windows, and the contract of an embedder."""

import pytest
import torch
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from regen.embedders import linear
from regen.embedders.linear import AutoencoderLinear, principal_components, to_cubes

RATIO, CHANNELS = 2, 3


def correlated_clips(clips: int = 24, height: int = 16, width: int = 24, frames: int = RATIO + 1) -> Tensor:
    """Clips whose cubes lie near a few directions of unequal strength, as those of real video do."""
    generator = torch.Generator().manual_seed(7)
    cubes = clips * (height // 8) * (width // 8)
    size = 192 * frames
    strengths = 0.8 ** torch.arange(40)
    values = torch.randn(cubes, 40, generator=generator) * strengths
    vectors = values @ torch.randn(40, size, generator=generator) / 4
    vectors = vectors + 0.1 * torch.randn(3, generator=generator).repeat_interleave(64).repeat(frames)
    sizes = {"h": height // 8, "w": width // 8, "c": 3, "p": 8, "q": 8}
    return rearrange(vectors, "(b h w) (t c p q) -> b c t (h p) (w q)", **sizes)


@pytest.fixture(scope="module")
def clips() -> Tensor:
    return correlated_clips()


@pytest.fixture
def model(clips: Tensor) -> AutoencoderLinear:
    model = AutoencoderLinear(RATIO, CHANNELS)
    model.init_from_components(clips.split(5))
    return model


def random_model(ratio: int = 4, channels: int = 4) -> AutoencoderLinear:
    torch.manual_seed(0)
    return AutoencoderLinear(ratio, channels).eval()


def reconstruct(model: AutoencoderLinear, video: Tensor) -> Tensor:
    return model.decode(model.encode(video).latent_dist.mode()).sample


def test_the_order_of_cubes() -> None:
    video = torch.randn(2, 3, 5, 16, 24)
    cubes = to_cubes(video)
    assert cubes.shape == (2, 2, 3, 192 * 5)
    assert torch.equal(cubes[1, 1, 2], video[1, :, :, 8:16, 16:24].transpose(0, 1).flatten())


def test_it_starts_at_principal_components(model, clips) -> None:
    """Those of the first frames, and those of what they leave of the chunks, without correlations."""
    numbers = (
        rearrange(model.encode(clips).latent_dist.mode(), "b c n h w -> (b h w) (n c)").detach().double()
    )
    numbers = numbers - numbers.mean(0)
    torch.testing.assert_close(numbers.T @ numbers / len(numbers), torch.eye(6).double(), atol=3e-2, rtol=0)
    vectors = to_cubes(clips).flatten(0, 2).double()
    vectors = vectors - vectors.mean(0)
    first = torch.linalg.svd(vectors[:, :192], full_matrices=False)
    content = first.U[:, :CHANNELS] * first.S[:CHANNELS]
    rest = vectors - content @ torch.linalg.lstsq(content, vectors).solution
    motion = torch.linalg.svd(rest, full_matrices=False)
    expected = torch.cat([content, motion.U[:, :CHANNELS] * motion.S[:CHANNELS]], dim=1)
    fitted = numbers @ torch.linalg.lstsq(numbers, expected).solution
    torch.testing.assert_close(fitted, expected, atol=0.05 * expected.std().item(), rtol=0.02)


def test_a_few_components_of_many_dimensions_are_those_of_all(monkeypatch) -> None:
    vectors = torch.randn(300, 200, dtype=torch.float64) * 0.9 ** torch.arange(200)
    covariance = vectors.T @ vectors / 300
    basis, std = principal_components(covariance, 5)
    monkeypatch.setattr(linear, "MAX_FULL", 100)
    few = principal_components(covariance, 5)
    torch.testing.assert_close(few, (basis, std), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(basis.T @ basis, torch.eye(5, dtype=torch.float64))
    assert (basis.gather(0, basis.abs().argmax(dim=0, keepdim=True)) > 0).all()


@pytest.mark.parametrize("frames", [RATIO + 1, 1])
def test_the_decoder_solved_for_has_the_smallest_error(clips, frames) -> None:
    """Any other weights are worse, between the outermost latents."""
    torch.manual_seed(0)
    model, video = AutoencoderLinear(RATIO, CHANNELS), clips[:, :, :frames]
    model.solve_decoder([clips[:9], clips[9:]])

    def error() -> Tensor:
        decoded = model.decoder(model.encoder(video).detach())
        return (decoded - video)[..., 4:-4, 4:-4].square().mean()

    part = model.decoder.chunk if frames > 1 else model.decoder.image
    (gradient,) = torch.autograd.grad(error(), part.weight)
    assert gradient.abs().max() < 1e-5
    best = error()
    with torch.no_grad():
        part.weight += 1e-2 * torch.randn_like(part.weight)
    assert error() > best


def test_standardising_changes_the_weights_and_not_the_frames(model, clips) -> None:
    """The raw latents then have a standard deviation of 1."""
    before = reconstruct(model, clips), reconstruct(model, clips[:, :, :1])
    raw = model.encoder(clips)
    mean, std = torch.tensor([[1.0, 2, 3], [4, 5, 6]]), torch.tensor([[2.0, 3, 4], [5, 6, 7]])
    model.standardise(mean, std)
    assert model.config.latents_std == [[1.0] * CHANNELS] * 2
    torch.testing.assert_close(model.encoder(clips), raw / std.T[:, :, None, None], atol=1e-5, rtol=1e-4)
    normalised = (raw - mean.T[:, :, None, None]) / std.T[:, :, None, None]
    torch.testing.assert_close(model.encode(clips).latent_dist.mode(), normalised, atol=1e-5, rtol=1e-4)
    after = reconstruct(model, clips), reconstruct(model, clips[:, :, :1])
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)


@given(
    ratio=st.integers(1, 5),
    channels=st.integers(1, 9),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    batch=st.integers(1, 2),
)
def test_shapes(ratio: int, channels: int, height: int, width: int, batch: int) -> None:
    model = AutoencoderLinear(ratio, channels)
    assert model.chunk_frames == ratio + 1
    for frames, number in ((ratio + 1, 2), (1, 1)):
        video = torch.randn(batch, 3, frames, 8 * height, 8 * width)
        latents = model.encode(video).latent_dist.sample()
        assert latents.shape == (batch, channels, number, height, width)
        assert torch.equal(latents, model.encode(video, return_dict=False)[0].mode())
        assert model.decode(latents).sample.shape == video.shape
        decoded = model.decode(latents, torch.tensor([-0.5, 0.3, 1.0, 2.0]), return_dict=False)[0]
        assert decoded.shape == (batch, 3, 4, 8 * height, 8 * width)


def test_the_content_latent_is_that_of_the_image() -> None:
    model, video = random_model(), torch.randn(1, 3, 5, 16, 24)
    latents, image = (model.encode(clip).latent_dist.mode() for clip in (video, video[:, :, :1]))
    torch.testing.assert_close(latents[:, :, :1], image)


def test_each_pixel_lies_in_four_windows() -> None:
    """A latent reaches 16 x 16 pixels around its block, and a pixel changes the latents of four windows."""
    model, latents = random_model(), torch.zeros(1, 4, 2, 5, 6)
    changed = latents.clone()
    changed[0, 0, 1, 2, 3] = 1
    rows, columns = (model.decode(changed).sample - model.decode(latents).sample)[0, 0, 0].nonzero().T
    assert {*rows.tolist()} == {*range(12, 28)} and {*columns.tolist()} == {*range(20, 36)}
    video = torch.zeros(1, 3, 5, 40, 48)
    pixel = video.clone()
    pixel[0, 0, 0, 19, 30] = 1
    difference = (model.encoder(pixel) - model.encoder(video))[0].abs().sum((0, 1))
    assert {*map(tuple, difference.nonzero().tolist())} == {(1, 3), (1, 4), (2, 3), (2, 4)}


def test_a_uniform_picture_is_as_bright_at_its_border_as_inside() -> None:
    """The picture is continued beyond its border, and so is the grid of latents."""
    model = random_model()
    latents = model.encoder(torch.full((1, 3, 5, 32, 32), 0.5))
    torch.testing.assert_close(latents, latents[..., :1, :1].expand_as(latents))
    frames = model.decoder(latents)
    torch.testing.assert_close(frames[..., :8, :8], frames[..., 8:16, 16:24])
    torch.testing.assert_close(frames[..., -8:, -8:], frames[..., 8:16, 16:24])


def test_times(model, clips) -> None:
    """Frames in between are blends, as those of weights are; beyond the chunk nothing moves."""
    latents = model.encode(clips[:2]).latent_dist.mode()
    for decode in (lambda *args: model.decode(*args).sample, lambda z, *args: model.decoder(z, *args)):
        whole = decode(latents)
        exact = decode(latents, torch.arange(RATIO + 1) / RATIO)
        torch.testing.assert_close(exact, whole)
        decoded = decode(latents, torch.tensor([-1.0, 1.25 / RATIO, 7.0]))
        torch.testing.assert_close(decoded[:, :, 0], whole[:, :, 0])
        torch.testing.assert_close(decoded[:, :, 1], 0.75 * whole[:, :, 1] + 0.25 * whole[:, :, 2])
        torch.testing.assert_close(decoded[:, :, 2], whole[:, :, -1])
        image = decode(latents[:, :, :1], torch.tensor([-1.0, 0.4]))
        assert torch.equal(image[:, :, 0], image[:, :, 1]), "an image stands still"


def test_names_of_the_weights() -> None:
    shapes = {name: tuple(value.shape) for name, value in random_model().state_dict().items()}
    assert shapes == {
        "encoder.content.weight": (4, 3, 1, 16, 16), "encoder.content.bias": (4,),
        "encoder.motion.weight": (4, 3, 5, 16, 16), "encoder.motion.bias": (4,),
        "decoder.image.weight": (4, 3, 1, 16, 16), "decoder.image.bias": (3,),
        "decoder.chunk.weight": (8, 3, 5, 16, 16), "decoder.chunk.bias": (3,),
    }  # fmt: skip


def test_loss_is_the_squared_error_inside_of_the_margin_and_reaches_the_parameters(model, clips) -> None:
    for frames in (RATIO + 1, 1):
        clip = clips[:, :, :frames].repeat(1, 1, 1, 2, 2)
        batch = {
            "clip": clip,
            "target": clip,
            "times": torch.arange(frames) / RATIO,
            "margin": torch.tensor(8),
        }
        loss, logs = model.loss(batch, [torch.Generator()] * len(clip))
        expected = (reconstruct(model, clip) - clip)[..., 8:-8, 8:-8].square().mean()
        torch.testing.assert_close(loss, expected)
        assert logs["psnr"].item() == pytest.approx(10 * torch.log10(4 / expected).item(), abs=1e-4)
        loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_constant_clips_do_not_divide_by_zero() -> None:
    clips = torch.full((2, 3, 2, 16, 16), 0.25)
    model = AutoencoderLinear(1, 2)
    model.init_from_components([clips])
    torch.testing.assert_close(reconstruct(model, clips), clips, atol=1e-5, rtol=0)


ERRORS = {
    "multiples of 8": lambda model: model.init_from_components([torch.zeros(1, 3, 5, 8, 12)]),
    "steps must be at least 1": lambda model: model.decode(torch.zeros(1, 8, 2, 1, 1), steps=0),
    "or 2 for each chunk, got 3": lambda model: model.decode(torch.zeros(1, 8, 3, 1, 1)),
    "with 8 channels, got 1 x 4 x 2": lambda model: model.decode(torch.zeros(1, 4, 2, 1, 1)),
    "nothing to fit": lambda model: model.init_from_components([]),
    "must have 5 frames": lambda model: model.init_from_components([torch.zeros(1, 3, 3, 8, 8)]),
    "latent_channels must be 1 to 192": lambda model: AutoencoderLinear(4, 193),
}


@pytest.mark.parametrize("words", ERRORS)
def test_wrong_calls_are_rejected(words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ERRORS[words](AutoencoderLinear(4, 8))
