"""Perceptual and adversarial losses in the training: their sum, their state, and exact resumption."""

import signal
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from tiny_run import assert_same

from regen.embedders.magvit2 import AutoencoderMagvit2, Magvit2Config
from regen.losses.adversarial import AdversarialConfig
from regen.losses.perceptual import Lpips
from regen.train.further import FurtherLosses, LossConfig
from regen.train.loop import Interrupted, LoopConfig, train
from regen.train.optimizer import OptimizerConfig
from regen.train.state import TrainState

CPU = torch.device("cpu")
MODEL = Magvit2Config(
    latent_channels=2, encoder_widths=(4, 4, 4, 4), encoder_blocks=1, encoder_patch_size=4, kl_weight=0.01
)
LOSSES = LossConfig(AdversarialConfig(start=1, width=4, multipliers=(2,), r1_every=2, learning_rate=1e-2))


class Clips(torch.utils.data.Dataset):
    """One clip of 17 frames per step; loading for update `stop_after` asks the run to stop."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        if self.stop_after is not None and step + 1 == self.stop_after:
            signal.raise_signal(signal.SIGTERM)
        generator = torch.Generator().manual_seed(step)
        return {"clip": torch.rand(1, 3, 17, 16, 16, generator=generator) * 2 - 1}


def run(out: Path, stop_after: int | None = None) -> TrainState:
    torch.manual_seed(0)
    model = AutoencoderMagvit2(**asdict(MODEL))
    config = LoopConfig(steps=4, workers=0, save_every_minutes=60.0, dtype="fp32")
    further = FurtherLosses(LOSSES, CPU)
    optimizer = OptimizerConfig(1e-2, warmup_steps=0)
    return train(model, Clips(stop_after), config, optimizer, out, CPU, None, {}, further=further)


def test_four_steps_are_two_and_two_more_with_a_discriminator(tmp_path):
    straight = run(tmp_path / "straight").state_dict()
    with pytest.raises(Interrupted):
        run(tmp_path / "halves", stop_after=2)
    resumed = run(tmp_path / "halves").state_dict()
    assert_same(straight, resumed)
    assert straight["further"]["calls"] == 4
    assert straight["further"]["means"].any()


def test_the_discriminator_learns_and_is_not_part_of_the_model(tmp_path):
    state = run(tmp_path)
    torch.manual_seed(0)
    AutoencoderMagvit2(**asdict(MODEL))
    fresh = FurtherLosses(LOSSES, CPU).state_dict()["discriminator"]
    learned = state.state_dict()["further"]["discriminator"]
    assert any(not torch.equal(fresh[name], learned[name]) for name in fresh)
    assert not any("discriminator" in name for name in state.model.state_dict())


def test_the_perceptual_loss_is_the_mean_over_frames(monkeypatch):
    lpips = Lpips.random_for_tests("vgg")
    monkeypatch.setattr(Lpips, "from_file", lambda *_: lpips)
    further = FurtherLosses(LossConfig(perceptual_weight=0.5, perceptual_file="weights.pth"), CPU)
    target, reconstruction = torch.rand(2, 1, 3, 2, 16, 16) * 2 - 1
    total, logs = further(target, reconstruction)
    each = torch.cat([lpips(reconstruction[:, :, i], target[:, :, i]) for i in range(2)])
    torch.testing.assert_close(logs["lpips"], each.mean())
    torch.testing.assert_close(total, 0.5 * each.mean())
    assert further.state_dict() == {}


def test_without_weights_nothing_is_added():
    total, logs = FurtherLosses(LossConfig(), CPU)(torch.zeros(1, 3, 1, 8, 8), torch.ones(1, 3, 1, 8, 8))
    assert total == 0
    assert logs == {}


def test_a_perceptual_loss_without_its_network_is_refused():
    with pytest.raises(ValueError, match="--losses.perceptual-file"):
        FurtherLosses(LossConfig(perceptual_weight=0.1), CPU)
