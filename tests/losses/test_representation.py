"""REPA with a tiny random model of the real class."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers
from extras import require_perceptual
from transformers.utils import logging

from regen.embedders.one_dva import AutoencoderOneDVA
from regen.losses.auxiliary import AuxiliaryLosses, LossConfig
from regen.losses.representation import RepresentationConfig, RepresentationLoss
from regen.networks.dit import Patches
from regen.runtime import generator_for

CPU = torch.device("cpu")
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("siglip")
    config = transformers.SiglipVisionConfig(**SIZES, image_size=32, patch_size=8)
    transformers.SiglipVisionModel(config).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def dino(tmp_path_factory) -> str:
    """A model with a class token and registers in front of its patches."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("dino")
    config = transformers.Dinov2WithRegistersConfig(
        **SIZES, mlp_ratio=2, image_size=28, patch_size=7, num_register_tokens=3
    )
    transformers.Dinov2WithRegistersModel(config).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def efficientnet() -> str:
    require_perceptual()
    return "efficientnet"


def loss_of(folder: str | None, side: int = 16) -> RepresentationLoss:
    torch.manual_seed(1)
    config = RepresentationConfig(weight=0.5, model=folder, width=24, learning_rate=1e-2)
    return RepresentationLoss(config, 12, Patches(4, side), CPU)


def sample(frames: int = 9, groups: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    return torch.randn(2, 12, groups, 2, 3, requires_grad=True), torch.rand(2, 3, frames, 32, 48) * 2 - 1


@pytest.mark.parametrize("kind", ["folder", "dino", "efficientnet"])
def test_the_two_grids_are_one(kind, request):
    """What changes in one patch of the decoder changes its own target features most."""
    loss, (_, target) = loss_of(request.getfixturevalue(kind)), sample()
    before = loss.target_features(target)
    for y in range(2):
        for x in range(3):
            other = target.clone()
            other[:, :, :, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16] += 1
            changed = (loss.target_features(other) - before).norm(dim=-1)
            assert changed.shape == (2, 3, 2, 3)
            assert changed.mean((0, 1)).argmax() == y * 3 + x


def test_target_features_are_those_of_the_vision_model(tmp_path):
    text = SIZES | {"vocab_size": 9, "max_position_embeddings": 4, "bos_token_id": 1, "eos_token_id": 2}
    images = SIZES | {"image_size": 32, "patch_size": 8}
    both = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=images)).eval()
    both.save_pretrained(tmp_path)
    loss = loss_of(str(tmp_path), side=8)
    images = torch.rand(2, 3, 1, 32, 32) * 2 - 1
    expected = both.vision_model(images[:, :, 0]).last_hidden_state
    torch.testing.assert_close(loss.target_features(images).flatten(1, 3), expected)


def test_target_features_of_a_half_precision_model_are_fp32(folder, tmp_path):
    transformers.SiglipVisionModel.from_pretrained(folder).to(torch.bfloat16).save_pretrained(tmp_path)
    (_, target), half, whole = sample(), loss_of(str(tmp_path)), loss_of(folder)
    seen = half.target_features(target)
    assert seen.dtype == torch.float32
    torch.testing.assert_close(seen, whole.target_features(target), atol=0.1, rtol=0.05)


def test_pixels_are_as_the_image_model_expects_them(folder, tmp_path):
    """Mean and deviation are those of its preprocessor_config.json; without, SigLIP's."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "preprocessor_config.json"
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    (_, target), plain = sample(), loss_of(folder)
    file.write_text(json.dumps({"image_mean": mean, "image_std": deviation}))
    seen = loss_of(str(tmp_path)).target_features(target)
    shift, scale = (torch.tensor(value).reshape(3, 1, 1, 1) for value in (mean, deviation))
    normalised = ((target + 1) / 2 - shift) / scale
    torch.testing.assert_close(seen, plain.target_features(normalised), atol=1e-5, rtol=1e-4)
    file.write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    seen = loss_of(str(tmp_path)).target_features(target)
    assert torch.equal(seen, plain.target_features(target))
    for content in ("{", "[]", '{"image_mean": 0.5}', '{"image_mean": [0.5], "image_std": [0.5]}'):
        file.write_text(content)
        with pytest.raises(ValueError, match="must contain image_mean and image_std"):
            loss_of(str(tmp_path))


def test_the_first_frame_stands_alone_and_the_others_are_averaged(folder):
    loss, (_, target) = loss_of(folder), sample()
    seen = loss.target_features(target)
    alone = [loss.target_features(target[:, :, i : i + 1]) for i in range(9)]
    torch.testing.assert_close(seen[:, :1], alone[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(seen[:, 1:2], torch.stack(alone[1:5]).mean(0), atol=1e-5, rtol=1e-4)
    short = loss.target_features(target[:, :, :7])  # the last group has two frames
    torch.testing.assert_close(short[:, 2:], torch.stack(alone[5:7]).mean(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("frames", "groups", "size"), [(1, 1, (32, 48)), (5, 2, (30, 41)), (2, 2, (17, 33))])
def test_images_and_sizes_that_do_not_divide(folder, frames, groups, size):
    loss, (features, _) = loss_of(folder), sample(groups=groups)
    value, logs = loss(features, torch.rand(2, 3, frames, *size) * 2 - 1)
    assert -0.5 <= value.item() <= 0.5
    assert value.item() == pytest.approx(0.5 * logs["representation"].item())


@pytest.mark.parametrize("part", ["projector", "features"])
def test_projector_and_features_learn_and_the_image_model_does_not(folder, part):
    loss, (features, target) = loss_of(folder), sample()
    frozen = {name: value.clone() for name, value in loss.image_model.state_dict().items()}
    descent, values = torch.optim.Adam([features], lr=0.05), []
    for _ in range(30):
        value, _ = loss(features, target)
        value.backward()
        if part == "projector":
            loss.update(lambda tensors: None)
        else:
            descent.step()
        loss.discard()
        descent.zero_grad()
        values.append(value.item())
    assert values[-1] < values[0] - 0.1
    assert all(torch.equal(value, frozen[name]) for name, value in loss.image_model.state_dict().items())
    assert {name.split(".")[0] for name in loss.tensors()} <= {"projector", "optimizer"}


def test_a_split_batch_trains_the_same(folder):
    """Up to rounding; weights whose gradient is no more than that are compared by their gradients alone."""
    whole, parts, (features, target) = loss_of(folder), loss_of(folder), sample()
    above_rounding: dict[str, torch.Tensor | bool] = {}
    for _ in range(2):
        whole(features, target)[0].backward()
        for i in range(2):
            (parts(features[i : i + 1], target[i : i + 1])[0] / 2).backward()
        gradients = [[p.grad for p in loss.projector.parameters()] for loss in (whole, parts)]
        torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)
        for name, parameter in whole.projector.named_parameters():
            is_above = parameter.grad.abs() > 1e-5
            above_rounding[f"projector.{name}"] = is_above & above_rounding.get(f"projector.{name}", True)
        for loss in (whole, parts):
            loss.update(lambda tensors: None)
            loss.discard()
    ours, theirs = whole.tensors(), parts.tensors()
    for name, is_above in above_rounding.items():
        assert is_above.float().mean() > 0.9
        ours[name], theirs[name] = ours[name][is_above], theirs[name][is_above]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_it_reaches_the_first_third_of_a_decoder_and_the_encoder(folder):
    """Through the loss of One-DVA, whose features it takes, and nothing behind them."""
    torch.manual_seed(0)
    model = AutoencoderOneDVA(
        latent_channels=4, encoder_width=24, encoder_depth=1, encoder_heads=2, width=24, depth=3, heads=2,
        pixel_channels=2, num_queries=20, kl_weight=0.0, region_size=2,
    ).train()  # fmt: skip
    config = LossConfig(representation=RepresentationConfig(0.5, folder, 24))
    further = AuxiliaryLosses(config, CPU, features=(24, model.patches))
    video = torch.rand(2, 3, 9, 32, 48) * 2 - 1
    gradients = []
    for extra in (None, further):
        model.zero_grad()
        generators = [generator_for(0, i) for i in range(2)]
        loss, logs = model.loss({"clip": video, "target": video}, generators, extra)
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert "representation" in logs
    touched = {name for name, value in gradients[1].items() if not torch.equal(value, gradients[0][name])}
    assert any(name.startswith("decoder.blocks.0.") for name in touched)
    assert any(name.startswith("encoder.") for name in touched)
    behind = ("decoder.blocks.1", "decoder.blocks.2", "decoder.conv")
    assert not any(name.startswith(behind) for name in touched)


def test_a_missing_model_is_an_error(folder, tmp_path, monkeypatch):
    for model, words in ((None, "needs an image model"), (str(tmp_path), "No image model in")):
        with pytest.raises(ValueError, match=words) as caught:
            loss_of(model)
        assert "--losses.representation.model" in str(caught.value)
    for kind in ("bert", "siglip2"):  # SigLIP 2 for pictures of any size is given patches and no pictures
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(ValueError, match=f"must be siglip or dinov2, got {kind}"):
            loss_of(str(tmp_path))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"package transformers: .*representation.weight to 0\."):
        loss_of(folder)


def test_a_damaged_or_different_model_is_an_error(folder, tmp_path):
    """A deeper config than the weights: transformers would fill in random ones."""
    config = json.loads((Path(folder) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="is damaged"):
        loss_of(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="is damaged"):
        loss_of(str(tmp_path))
    shutil.copy(Path(folder) / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    with pytest.raises(ValueError, match="lacks the weight"):
        loss_of(str(tmp_path))
    logging.set_verbosity(level)
