"""A model and batches that train in milliseconds."""

import signal
import time
from collections.abc import Container
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from regen.data.batches import BatchKey
from regen.runtime import generator_for
from regen.train.checkpoint import TrainState, list_checkpoints, read_tensors
from regen.train.distributed import init_distributed
from regen.train.lifecycle import Evaluate
from regen.train.loop import LoopConfig, train
from regen.train.optimizer import OptimizerConfig

STEPS = 40
CLIPS = 4


class TinyBatches(Dataset[dict[str, Tensor]]):
    """Four clips of 3 frames per step, every fifth step four images.

    Loading takes `seconds`; the clips of `broken` keys (step, part) or steps are not numbers; that of
    `unreadable_step` can't be loaded; loading for update `stop_after` asks the run to stop.
    """

    def __init__(
        self,
        seconds: float = 0.0,
        broken: Container[object] = (),
        unreadable_step: int | None = None,
        stop_after: int | None = None,
    ) -> None:
        self.seconds, self.broken = seconds, broken
        self.unreadable_step, self.stop_after = unreadable_step, stop_after

    def __getitem__(self, key: BatchKey) -> dict[str, Tensor]:
        step, part, parts = key
        time.sleep(self.seconds)
        if step == self.unreadable_step:
            raise ValueError("There is nothing to read: give another folder.")
        if step + 1 == self.stop_after:
            signal.raise_signal(signal.SIGTERM)
        frames = 1 if step % 5 == 0 else 3
        clip = torch.rand(CLIPS, 3, frames, 8, 8, generator=generator_for(7, step)) * 2 - 1
        clip = clip * float("nan") if step in self.broken or (step, part) in self.broken else clip
        rows = torch.arange(CLIPS * part // parts, CLIPS * (part + 1) // parts)
        return {
            "clip": clip[rows],
            "target": clip[rows],
            "times": torch.zeros(frames),
            "rows": rows,
            "batch_size": torch.tensor(CLIPS),
            "replaced": torch.zeros(3, dtype=torch.int64),
        }


class TinyModel(nn.Module):
    """Denoises pixels with two matrices; images leave the motion scale without a gradient."""

    _no_split_modules = ("LayerNorm",)
    _forward_methods = ("loss",)

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.enter = nn.Linear(3, 6)
        self.norm = nn.LayerNorm(6)
        self.leave = nn.Linear(6, 3, bias=False)
        self.motion_scale = nn.Parameter(torch.ones(1, 3))
        self.checkpointing = False
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)

    def muon_parameters(self) -> list[nn.Parameter]:
        return [self.leave.weight]

    def enable_gradient_checkpointing(self) -> None:
        self.checkpointing = True

    def forward(self, pixels: Tensor) -> Tensor:
        return self.leave(self.norm(self.enter(pixels)))

    def loss(
        self, batch: dict[str, Tensor], generators: list[torch.Generator]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        clean = batch["clip"].movedim(1, -1)
        noise = torch.stack([torch.randn(clean.shape[1:], generator=one) for one in generators]).to(clean)
        output = self(clean + 0.1 * noise)
        if clean.shape[1] > 1:
            output = output * self.motion_scale
        loss = (output.float() - clean).square().mean()
        return loss, {"loss": loss.detach(), "psnr": -10 * (loss.detach() / 4).log10()}


def run_tiny(
    out: Path,
    steps: int = STEPS,
    batches: TinyBatches | None = None,
    resume: bool = True,
    evaluate: Evaluate | None = None,
    muon: bool = True,
    device: str = "cpu",
    **options: object,
) -> TrainState:
    """Train the tiny model into `out`, in all processes that were started; `options` are LoopConfig's."""
    settings = {"num_workers": 0, "log_every": 5, "save_every_minutes": 60.0, "mixed_precision": "fp32"}
    config = LoopConfig(steps=steps, **settings | options)
    optimizer = OptimizerConfig(1e-2, 1e-2 if muon else None, warmup_steps=3, decay_fraction=0.5)
    resolved, batches = {"loop": asdict(config), "optimizer": asdict(optimizer)}, batches or TinyBatches()
    with init_distributed(device) as world:
        return train(TinyModel(), batches, config, optimizer, out, world, evaluate, resolved, resume)


def saved_tensors(out: Path) -> dict[str, Tensor]:
    return read_tensors(list_checkpoints(out / "checkpoints")[-1])


def assert_same(tensors: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Two state dictionaries are equal to the last bit."""
    torch.testing.assert_close(tensors, other, rtol=0, atol=0)
