"""Feature extractors: their files, the clips that they see, and the clips of a video; with tiny networks."""

import hashlib
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import VideoMAEConfig, VideoMAEModel
from transformers.utils import logging

from regen.metrics.features import ClipFeatures, Extractor, I3d, RandomConvolutions, VideoMae, clip_features

CPU = torch.device("cpu")


class TinyI3d(nn.Module):
    """Takes what the real file takes; its features tell what it was given."""

    def forward(
        self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> Tensor:
        flags = torch.tensor([float(rescale), float(resize), float(return_features)])
        sizes = torch.tensor([float(x.shape[2]), float(x.shape[3]), float(x.shape[4])])
        means = x.mean(dim=(3, 4))[:, :, 0]
        return torch.cat([flags.expand(len(x), 3), sizes.expand(len(x), 3), means], dim=1)


class WithoutFlags(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3, 4))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save_script(path: Path, module: nn.Module) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(path)
    return sha256(path)


def video(frames: int, height: int = 20, width: int = 30, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, height, width, 3), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def videomae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a real VideoMAE, tiny and random: clips of 4 frames, 32 x 32."""
    folder = tmp_path_factory.mktemp("videomae")
    config = VideoMAEConfig(
        image_size=32, num_frames=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8,
    )  # fmt: skip
    logging.disable_progress_bar()
    VideoMAEModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def proxy() -> Extractor:
    return RandomConvolutions(frames=4, size=16).load(CPU)


def test_i3d_is_called_as_the_published_file_wants(tmp_path: Path) -> None:
    digest = save_script(tmp_path / "i3d.pt", TinyI3d())
    extractor = I3d(tmp_path / "i3d.pt", digest, frames=12).load(CPU)
    assert (extractor.name, extractor.sha256) == ("I3D", digest)
    assert (extractor.frames, extractor.size, extractor.num_features) == (12, 224, 9)
    frames = torch.zeros(25, 20, 30, 3, dtype=torch.uint8)
    frames[:12] = torch.tensor([255, 0, 51])
    features = clip_features(extractor, frames)
    seen = torch.tensor([0, 0, 1, 12, 224, 224], dtype=torch.float32).expand(2, -1)
    assert torch.equal(features[:, :6], seen), "no scaling of its own, features, and frames of 224 x 224"
    torch.testing.assert_close(features[:, 6:], torch.tensor([[1, -1, -0.6], [-1, -1, -1]]))


def test_i3d_file_is_checked(tmp_path: Path) -> None:
    """The published sum by default; both sums in the message."""
    path = tmp_path / "i3d.pt"
    with pytest.raises(ValueError, match="i3d.pt .*; get i3d_torchscript.pt"):
        I3d(path).load(CPU)
    digest = save_script(path, TinyI3d())
    with pytest.raises(ValueError, match=f"SHA-256 {I3d(path).sha256}, got {digest}; get"):
        I3d(path).load(CPU)
    with pytest.raises(ValueError, match="at least 10 .* got 9"):
        I3d(path, frames=9)


@pytest.mark.parametrize("content", ["text", "half", "no flags"])
def test_another_file_than_i3d_is_an_error(content: str, tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    save_script(path, WithoutFlags())
    if content == "text":
        path.write_text("no script")
    elif content == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="other.pt is not an I3D for 16 frames"):
        I3d(path, sha256(path)).load(CPU)


def test_videomae_sees_normalised_clips_of_its_own_size(videomae: Path) -> None:
    """The mean over the tokens of the model itself, called as its documentation says."""
    extractor = VideoMae(videomae, sha256(videomae / "model.safetensors")[:8]).load(CPU)
    assert extractor.name == "VideoMAE, mean over tokens"
    assert (extractor.frames, extractor.size, extractor.num_features) == (4, 32, 16)
    assert extractor.sha256 == sha256(videomae / "model.safetensors")
    frames = video(9, 32, 32)
    pixels = frames.permute(0, 3, 1, 2).double() / 255
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((pixels - mean[:, None, None]) / deviation[:, None, None]).float()
    model = VideoMAEModel.from_pretrained(videomae).eval()
    with torch.no_grad():
        expected = model(torch.stack([pixels[:4], pixels[4:8]])).last_hidden_state.mean(1)
    torch.testing.assert_close(clip_features(extractor, frames), expected, rtol=1e-4, atol=1e-5)


def test_videomae_folder_is_checked(videomae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(words: str, folder: Path = tmp_path, sha256: str | None = None) -> None:
        with pytest.raises(ValueError, match=words):
            VideoMae(folder, sha256).load(CPU)

    fails("model.safetensors .*; give the folder of a VideoMAE")
    fails("SHA-256 00000000", videomae, "0" * 8)
    config = (videomae / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    fails("can't be loaded")
    (tmp_path / "model.safetensors").write_bytes((videomae / "model.safetensors").read_bytes())
    deeper = config.replace('"num_hidden_layers": 1', '"num_hidden_layers": 2')
    (tmp_path / "config.json").write_text(deeper)
    fails("lack .*layer.*1")  # transformers would fill in random ones
    monkeypatch.setitem(sys.modules, "transformers", None)
    fails("need transformers")


def test_random_convolutions_are_named_and_follow_their_seed(proxy: Extractor) -> None:
    assert proxy.name == "random-convolutions, not comparable with any published number"
    again, other = RandomConvolutions(frames=4, size=16), RandomConvolutions(seed=1, frames=4, size=16)
    frames = video(4)
    features = clip_features(proxy, frames)
    assert features.shape == (1, proxy.num_features)
    assert again.load(CPU).sha256 == proxy.sha256 != other.load(CPU).sha256
    assert torch.equal(clip_features(again.load(CPU), frames), features)
    assert not torch.equal(clip_features(other.load(CPU), frames), features)


@pytest.mark.parametrize(("frames", "clips"), [(0, 0), (3, 0), (4, 1), (7, 1), (8, 2), (13, 3)])
def test_clips_do_not_overlap_and_the_rest_is_dropped(proxy: Extractor, frames: int, clips: int) -> None:
    whole = video(frames)
    features = clip_features(proxy, whole)
    assert features.shape == (clips, proxy.num_features)
    for index in range(clips):
        alone = clip_features(proxy, whole[4 * index : 4 * index + 4])
        torch.testing.assert_close(features[index : index + 1], alone)


def test_split_into_calls_does_not_matter(proxy: Extractor) -> None:
    """The caller may write the next frames into the same memory."""
    frames, clips = video(9), ClipFeatures(proxy)
    buffer = torch.empty_like(frames[:3])
    for first in range(0, 9, 3):
        buffer.copy_(frames[first : first + 3])
        clips.update(buffer)
        clips.update(buffer[:0])
    torch.testing.assert_close(clips.compute(), clip_features(proxy, frames))


class Record(nn.Module):
    """Keeps what a network is given; its features are means over the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, clips: Tensor) -> Tensor:
        self.seen.append(clips)
        return clips.mean((3, 4)).flatten(1)


def seen_by_a_network(proxy: Extractor, frames: Tensor) -> Tensor:
    """The clip `3 4 16 16` that a network for 4 frames of 16 x 16 gets."""
    recorder = Record()
    extractor = replace(proxy, network=recorder, num_features=12)
    assert clip_features(extractor, frames).shape == (1, 12)
    return recorder.seen[0][0]


def test_a_ramp_is_resized_as_by_hand(proxy: Extractor) -> None:
    """Bilinear at half-pixel centres and no antialiasing: output i lies at (i + 1/2) s - 1/2 of the input.

    By a factor of 4 that is the mean of the second and third of four pixels; antialiasing would see all
    four, and beyond. By 1/2 it is 3/4 of the nearer pixel and 1/4 of the other, and the border repeats.
    """
    assert proxy.resize == "bilinear without antialiasing, as cd-fvd"
    squares = (torch.arange(64) % 8) ** 2
    frames = squares.to(torch.uint8)[None, None, :, None].expand(4, 64, 64, 3)
    quarter = squares.double().unflatten(0, (16, 4))[:, 1:3].mean(1) / 127.5 - 1
    seen = seen_by_a_network(proxy, frames)
    torch.testing.assert_close(seen.double(), quarter.expand(3, 4, 16, 16), rtol=0, atol=1e-6)
    ramp = torch.arange(8) * 8
    frames = ramp.to(torch.uint8)[None, None, :, None].expand(4, 8, 8, 3)
    positions = ((torch.arange(16) + 0.5) / 2 - 0.5).clamp(0, 7).double()
    expected = (8 * positions / 127.5 - 1).expand(3, 4, 16, 16)
    seen = seen_by_a_network(proxy, frames)
    torch.testing.assert_close(seen.double(), expected, rtol=0, atol=1e-6)


def test_frames_are_resized_to_a_square_in_float(proxy: Extractor) -> None:
    """Whatever their aspect ratio, and without rounding; a frame of the right size is left as it is."""
    frames, fitting = video(4, 50, 34), video(4, 16, 16)
    images = frames.permute(0, 3, 1, 2).float()
    expected = functional.interpolate(images, (16, 16), mode="bilinear", align_corners=False) * 2 / 255 - 1
    torch.testing.assert_close(seen_by_a_network(proxy, frames), expected.transpose(0, 1))
    plain = fitting.permute(3, 0, 1, 2).float() / 127.5 - 1
    assert torch.equal(seen_by_a_network(proxy, fitting), plain)
