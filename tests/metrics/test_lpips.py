"""LPIPS: the network against that of torchmetrics, its weight files, and its mean over frames."""

import hashlib
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.functional.image import lpips as published

from regen.metrics import lpips as module
from regen.metrics.lpips import BACKBONES, Lpips, LpipsMean, Net

NETS: tuple[Net, ...] = ("alex", "vgg")
FRAMES = 5


def features_of_torchvision(name: str) -> nn.Sequential:
    """`features` of torchvision's AlexNet or VGG-16, written out, with random weights."""
    if name == "alexnet":
        pooled = (0, 1, 4)
        convolutions = [nn.Conv2d(3, 64, 11, 4, 2), nn.Conv2d(64, 192, 5, 1, 2), nn.Conv2d(192, 384, 3, 1, 1)]
        convolutions += [nn.Conv2d(384, 256, 3, 1, 1), nn.Conv2d(256, 256, 3, 1, 1)]
        pool = nn.MaxPool2d(3, 2)
    else:
        pooled = (1, 3, 6, 9, 12)
        channels = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
        convolutions = [nn.Conv2d(*pair, 3, padding=1) for pair in pairwise(channels)]
        pool = nn.MaxPool2d(2, 2)
    layers: list[nn.Module] = []
    for index, convolution in enumerate(convolutions):
        layers += [convolution, nn.ReLU(), *([pool] if index in pooled else [])]
    return nn.Sequential(*layers)


def store(path: Path, features: nn.Sequential) -> str:
    """A file like torchvision's, with a classifier; its SHA-256."""
    weights = {f"features.{name}": weight for name, weight in features.state_dict().items()}
    torch.save(weights | {"classifier.6.bias": torch.zeros(3)}, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pictures(count: int = 2, height: int = 71, width: int = 64, seed: int = 0) -> Tensor:
    coarse = torch.rand(count, 3, 9, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return functional.interpolate(coarse, size=(height, width), mode="bilinear")


@pytest.fixture(scope="module", params=NETS)
def lpips(request: pytest.FixtureRequest) -> Lpips:
    return Lpips.random_for_tests(request.param)


@pytest.fixture(scope="module")
def alex() -> Lpips:
    return Lpips.random_for_tests()


@pytest.mark.parametrize("net", NETS)
def test_equal_to_torchmetrics(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published network and heads, given the same backbone, find the same distances."""
    features = features_of_torchvision({"alex": "alexnet", "vgg": "vgg16"}[net])
    monkeypatch.setattr(published, "_get_tv_model_features", lambda name, pretrained: features)
    reference = published._LPIPS(net=net, pnet_rand=True)
    digest = store(tmp_path / "weights.pth", features)
    own = Lpips.from_file(tmp_path / "weights.pth", net, digest)
    first, second = pictures(seed=1), pictures(seed=2)
    expected = reference(first, second).flatten()
    assert expected.min() > 1e-3, "or nothing would be compared"
    torch.testing.assert_close(own(first, second), expected, rtol=1e-5, atol=1e-7)


def test_a_loss_that_trains_the_image_and_nothing_else(lpips: Lpips) -> None:
    """Frozen itself; steps along the gradient bring an image nearer, also from a flat one."""
    target, image = pictures(1), torch.zeros(1, 3, 71, 64, requires_grad=True)
    assert not any(parameter.requires_grad for parameter in lpips.parameters())
    optimizer = torch.optim.Adam([image], lr=0.03)
    before = lpips(image, target).item()
    for _ in range(6):
        optimizer.zero_grad()
        lpips(image, target).sum().backward()
        assert image.grad is not None and image.grad.isfinite().all() and image.grad.abs().sum() > 0
        optimizer.step()
    assert lpips(image, target).item() < 0.8 * before


def test_images_too_small_are_an_error(lpips: Lpips) -> None:
    """min_side is the smallest side that the network takes."""
    min_side = BACKBONES[lpips.net].min_side
    assert lpips(torch.ones(1, 3, min_side, 40), -torch.ones(1, 3, min_side, 40)).isfinite().all()
    with pytest.raises(ValueError, match=f"needs {min_side} pixels, got 40 x {min_side - 1}"):
        lpips(pictures(1, 40, min_side - 1), pictures(1, 40, min_side - 1))
    with pytest.raises(RuntimeError, match="too small"):
        lpips.layers(torch.zeros(1, 3, 40, min_side - 1))


def test_a_file_needs_the_right_sum(tmp_path: Path) -> None:
    """By default that of torchvision's; a prefix of 8 digits is enough, a shorter one is none."""
    path = tmp_path / "weights.pth"
    for net in NETS:
        with pytest.raises(ValueError, match=f"weights.pth .*; download .*{BACKBONES[net].file}"):
            Lpips.from_file(path, net)
    digest = store(path, features_of_torchvision("alexnet"))
    for right in (digest, digest[:8], digest[:20].upper()):
        assert Lpips.from_file(path, "alex", right).net == "alex"
    with pytest.raises(ValueError, match=f"7be5be79, got {digest}"):
        Lpips.from_file(path)
    with pytest.raises(ValueError, match="8 to 64 hexadecimal digits"):
        Lpips.from_file(path, "alex", digest[:7])


def test_a_file_of_another_network_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    digest = store(path, features_of_torchvision("vgg16"))
    with pytest.raises(ValueError, match=r"lacks features.0.weight of shape \(64, 3, 11"):
        Lpips.from_file(path, "alex", digest)
    for content in (b"", b"no weights at all", path.read_bytes()[:5000]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="can't be read .*alexnet-owt"):
            Lpips.from_file(path, "alex", hashlib.sha256(content).hexdigest())
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="lacks features.0.weight"):
        Lpips.from_file(path, "alex", hashlib.sha256(path.read_bytes()).hexdigest())


def noise(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (FRAMES, 33, 40, 3), generator=generator, dtype=torch.uint8)


def test_mean_over_frames_of_pictures_between_minus_one_and_one(alex: Lpips) -> None:
    reference, other = noise(1), noise(2)
    metric, same = LpipsMean(alex), LpipsMean(alex)
    with pytest.raises(ValueError, match="at least one"):
        metric.compute()
    metric.update(reference, other)
    same.update(reference, reference)
    images = [frames.permute(0, 3, 1, 2).float() / 255 * 2 - 1 for frames in (other, reference)]
    assert metric.compute() == pytest.approx(alex(*images).mean().item(), rel=1e-5)
    assert metric.frames == FRAMES and same.compute() == 0


def test_split_into_calls_and_batches_does_not_matter(alex: Lpips, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, other = noise(1), noise(2)
    whole, parts = LpipsMean(alex), LpipsMean(alex)
    whole.update(reference, other)
    monkeypatch.setattr(module, "MAX_PIXELS_PER_BATCH", 2 * 33 * 40)
    seen: list[int] = []
    handle = alex.register_forward_hook(lambda _, images, __: seen.append(len(images[0])))
    for first, last in pairwise((0, 3, 3, FRAMES)):
        parts.update(reference[first:last], other[first:last])
    handle.remove()
    assert parts.compute() == pytest.approx(whole.compute(), rel=1e-5)
    assert seen == [2, 1, 2], "memory is bounded by the number of pixels"
