import pytest
import torch
from tiny_run import TinyModel

from regen.train.optimizer import (
    Muon,
    OptimizerConfig,
    build_optimizers,
    learning_rate_factor,
    set_learning_rate,
)


@pytest.mark.parametrize("muon", [None, 2e-3])
def test_every_parameter_is_stepped_by_exactly_one_optimizer(muon):
    model = TinyModel()
    optimizers = build_optimizers(model, OptimizerConfig(muon_learning_rate=muon))
    stepped = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, stepped)) == sorted(map(id, model.parameters()))


def test_muon_steps_the_matrices_and_frozen_parameters_are_left_out():
    model = TinyModel()
    model.enter.requires_grad_(False)
    config = OptimizerConfig(betas=(0.8, 0.9), weight_decay=0.3, muon_learning_rate=2e-3)
    adamw, muon = build_optimizers(model, config)
    assert isinstance(adamw, torch.optim.AdamW) and isinstance(muon, torch.optim.Muon)
    assert [id(p) for p in muon.param_groups[0]["params"]] == [id(model.leave.weight)]
    stepped = {id(p) for group in adamw.param_groups for p in group["params"]}
    assert stepped.isdisjoint(map(id, model.enter.parameters()))
    assert adamw.param_groups[0]["betas"] == (0.8, 0.9)
    assert adamw.param_groups[0]["weight_decay"] == muon.param_groups[0]["weight_decay"] == 0.3


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)])
def test_muon_in_fp32_makes_the_updates_of_torch(shape, monkeypatch):
    """On a CPU without bf16, where that of torch's is emulated; up to the rounding of bf16."""
    monkeypatch.setattr("regen.train.optimizer.pick_dtype", lambda name, device: torch.float32)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    unused = torch.nn.Parameter(torch.ones(2, 2))
    mine = Muon([{"params": [ours, unused], "initial_lr": 0.1}], 0.1, 0.3)
    reference = torch.optim.Muon([theirs], 0.1, 0.3, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        ours.grad = theirs.grad = torch.randn(shape, generator=generator)
        mine.step()
        reference.step()
    moved = ours.detach() - start
    assert (ours - theirs).norm() < 0.02 * moved.norm()
    assert torch.equal(unused, torch.ones(2, 2))
    assert torch.equal(mine.state[ours]["momentum_buffer"], reference.state[theirs]["momentum_buffer"])


def test_muon_orthogonalizes_and_takes_a_closure(monkeypatch):
    monkeypatch.setattr("regen.train.optimizer.pick_dtype", lambda name, device: torch.float32)
    matrix = torch.nn.Parameter(torch.zeros(8, 32))
    gradient = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))

    def closure():
        matrix.grad = gradient
        return 3.0

    assert Muon([{"params": [matrix], "initial_lr": 1.0}], 1.0, 0.0).step(closure) == 3.0
    values = torch.linalg.svdvals(matrix.detach()) / (0.2 * 32**0.5)
    assert values.min() > 0.6 and values.max() < 1.3


def test_norms_and_biases_do_not_decay():
    model = TinyModel()
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5)
    (adamw,) = build_optimizers(model, config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    adamw.step()
    shrunk = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert shrunk == {"enter.weight", "leave.weight", "motion_scale"}


def test_learning_rate_warms_up_holds_and_falls():
    config = OptimizerConfig(warmup_steps=10, decay_fraction=0.4)
    factors = [learning_rate_factor(step, 100, config) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:60] == [1.0] * 51
    assert factors[80] == pytest.approx(0.5)
    assert factors[99] == pytest.approx(1 / 40)
    assert learning_rate_factor(100, 100, config) == 0
    config = OptimizerConfig(warmup_steps=0)
    assert {learning_rate_factor(step, 10, config) for step in range(10)} == {1.0}


def test_the_factor_scales_every_group_from_its_full_rate():
    optimizers = build_optimizers(TinyModel(), OptimizerConfig(1e-3, muon_learning_rate=4e-3))
    set_learning_rate(optimizers, 0.1)
    set_learning_rate(optimizers, 0.5)
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    assert rates == [[5e-4, 5e-4], [2e-3]]
