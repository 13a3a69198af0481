"""Perceptual and adversarial losses in the training: their sum, their state, and exact resumption."""

from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
import torch
from extras import require_perceptual
from ranks import run_ranks
from tiny_media import tiny_regen
from tiny_run import TinyBatches, assert_same, saved_tensors

from regen.console import Interrupted
from regen.data.batches import BatchKey
from regen.embedders.magvit2 import AutoencoderMagvit2, Magvit2Config
from regen.losses.adversarial import AdversarialConfig
from regen.losses.auxiliary import AuxiliaryLosses, LossConfig
from regen.metrics.lpips import Lpips
from regen.runtime import generator_for
from regen.train.checkpoint import TrainState
from regen.train.distributed import init_distributed
from regen.train.loop import LoopConfig, train
from regen.train.optimizer import OptimizerConfig

CPU = torch.device("cpu")
MODEL = Magvit2Config(
    latent_channels=2, encoder_widths=(4, 4, 4, 4), encoder_blocks=1, encoder_patch_size=4, kl_weight=0.01
)
LOSSES = LossConfig(AdversarialConfig(start=1, width=4, multipliers=(2,), r1_every=2, learning_rate=1e-2))


@pytest.fixture(scope="module")
def efficientnet() -> LossConfig:
    require_perceptual()
    return LossConfig(perceptual_weight=0.5, perceptual_net="efficientnet")


class Clips(TinyBatches):
    """Like TinyBatches, but clips of 17 frames."""

    def __getitem__(self, key: BatchKey) -> dict[str, torch.Tensor]:
        batch = super().__getitem__(key)
        clip = torch.rand(4, 3, 17, 16, 16, generator=generator_for(key[0])) * 2 - 1
        return batch | {"clip": clip[batch["rows"]]}


def run(out: Path, stop_after: int | None = None, parts: int = 1, fsdp: bool = False) -> TrainState:
    torch.manual_seed(0)
    model = AutoencoderMagvit2(**asdict(MODEL))
    config = LoopConfig(
        4, save_every_minutes=60.0, mixed_precision="fp32", num_workers=0, gradient_accumulation_steps=parts,
        fsdp=fsdp,
    )  # fmt: skip
    auxiliary, optimizer = AuxiliaryLosses(LOSSES, CPU), OptimizerConfig(1e-3, warmup_steps=0)
    batches = Clips(stop_after=stop_after)
    with init_distributed("cpu") as context:
        return train(model, batches, config, optimizer, out, context, None, {}, auxiliary=auxiliary)


def test_four_steps_are_two_and_two_more_with_a_discriminator(tmp_path):
    state = run(tmp_path / "straight")
    assert not any("discriminator" in name for name in state.model.state_dict())
    straight = state.tensors()
    with pytest.raises(Interrupted):
        run(tmp_path / "halves", stop_after=2)
    resumed = run(tmp_path / "halves").tensors()
    assert_same(straight, resumed)
    assert straight["auxiliary.adversarial.updates"] == 4
    assert straight["auxiliary.adversarial.means"].any()


@pytest.mark.integration
@pytest.mark.parametrize(
    ("ranks", "options"), [(1, {"parts": 2}), (2, {}), (2, {"fsdp": True})], ids=["parts", "ddp", "fsdp"]
)
def test_any_split_of_the_batch_trains_the_same_with_a_discriminator(ranks, options, tmp_path):
    run(tmp_path / "whole")
    run_ranks(ranks, partial(run, **options), tmp_path / "parts", errors=tmp_path / "errors")
    whole, parts = saved_tensors(tmp_path / "whole"), saved_tensors(tmp_path / "parts")
    torch.testing.assert_close(whole, parts, atol=2e-4, rtol=1e-2)


def test_the_perceptual_loss_is_the_mean_over_frames(monkeypatch):
    lpips = Lpips.random_for_tests("vgg")
    monkeypatch.setattr(Lpips, "from_file", lambda *_: lpips)
    losses = AuxiliaryLosses(LossConfig(perceptual_weight=0.5, perceptual_file="weights.pth"), CPU)
    target, reconstruction = torch.rand(2, 1, 3, 2, 16, 16) * 2 - 1
    total, logs = losses(target, reconstruction)
    each = torch.cat([lpips(reconstruction[:, :, i], target[:, :, i]) for i in range(2)])
    torch.testing.assert_close(logs["lpips"], each.mean())
    torch.testing.assert_close(total, 0.5 * each.mean())
    assert losses.tensors() == {}


def test_the_feature_distance_needs_no_file(efficientnet):
    losses = AuxiliaryLosses(efficientnet, CPU)
    target, reconstruction = torch.rand(2, 2, 3, 3, 32, 32) * 2 - 1
    total, logs = losses(target, reconstruction.requires_grad_(True))
    total.backward()
    assert total.item() == pytest.approx(0.5 * logs["feature_distance"].item()) and total > 0
    assert all(grad.abs().sum() > 0 for grad in reconstruction.grad.flatten(1))
    assert losses.tensors() == {} and len(losses.networks()) == 1


def test_a_perceptual_loss_of_clips_at_noise_level_1_alone(efficientnet):
    losses, (target, reconstruction) = AuxiliaryLosses(efficientnet, CPU), torch.rand(2, 3, 3, 2, 32, 32)
    reconstruction.requires_grad_(True)
    total, logs = losses.perceive(target, reconstruction, torch.tensor([1.0, 0.5, 1.0]))
    total.backward()
    alone = [losses.perceive(target[i, None], reconstruction[i, None])[0] for i in (0, 2)]
    assert total.item() == pytest.approx(sum(each.item() for each in alone) / 3)
    assert logs["feature_distance"].item() == pytest.approx(total.item() * 3 / 2 / 0.5)
    assert [bool(grad.any()) for grad in reconstruction.grad] == [True, False, True]
    total, logs = losses.perceive(target, reconstruction, torch.tensor([0.2, 0.5, 0.3]))
    assert total == 0 and logs["feature_distance"] > 0


@pytest.mark.parametrize("pure_noise_prob", [0.0, 1.0])
def test_regen_is_sharpened_where_one_step_decodes(efficientnet, pure_noise_prob):
    """The loss changes by the weighted distance, and only if there are clips at noise level 1."""
    torch.manual_seed(0)
    model = tiny_regen()
    model.register_to_config(pure_noise_prob=pure_noise_prob)
    clip = torch.rand(2, 3, 5, 32, 32) * 2 - 1
    batch = {"clip": clip, "target": clip, "times": torch.linspace(0, 1, 5)}
    (plain, _), (more, logs) = (
        model.loss(batch, [generator_for(0, i) for i in range(2)], *extra)
        for extra in ((), (AuxiliaryLosses(efficientnet, CPU),))
    )
    added = (more - plain).item()
    expected = 0.5 * logs["feature_distance"].item() if pure_noise_prob else 0.0
    assert added == pytest.approx(expected, abs=1e-5)


def test_without_weights_nothing_is_added():
    total, logs = AuxiliaryLosses(LossConfig(), CPU)(torch.zeros(1, 3, 1, 8, 8), torch.ones(1, 3, 1, 8, 8))
    assert total == 0 and logs == {}
    with pytest.raises(ValueError, match="--losses.perceptual-file"):
        AuxiliaryLosses(LossConfig(perceptual_weight=0.1), CPU)
