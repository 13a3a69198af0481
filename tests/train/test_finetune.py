"""Initial weights: what is loaded, fitted and reported, and what stays frozen."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from tiny_media import make_video
from tiny_networks import awake
from tiny_run import assert_same
from torch import nn

from regen.data.clips import ClipDataset
from regen.embedders.linear import AutoencoderLinear
from regen.embedders.magvit2 import AutoencoderMagvit2, Magvit2Config
from regen.embedders.one_dva import AutoencoderOneDVA, OneDVAConfig
from regen.embedders.pyramid import LINEAR_PATH
from regen.embedders.regen import AutoencoderRegen, RegenConfig
from regen.runtime import generator_for
from regen.train.finetune import InitConfig, inflate_kernel, init_weights
from regen.train.linear_start import init_from_pca
from regen.train.optimizer import OptimizerConfig, build_optimizers

TINY = RegenConfig(
    latent_channels=4, encoder_widths=(8, 8, 8, 8), encoder_blocks=1, encoder_patch_size=4,
    width=24, depth=2, heads=3, siren_width=16, siren_frequency=30.0,
)  # fmt: skip
BASELINE = Magvit2Config(
    latent_channels=4, encoder_widths=(8, 8, 8, 8), encoder_blocks=1, encoder_patch_size=4, kl_weight=0.0
)


def fresh(seed: int = 1, **options: object) -> AutoencoderRegen:
    """A model that has random numbers even where a new one has zeros."""
    torch.manual_seed(seed)
    return awake(AutoencoderRegen(**asdict(TINY) | options))


@pytest.fixture
def start(tmp_path) -> tuple[str, AutoencoderRegen]:
    """A folder and the model in it."""
    model = fresh(seed=0).eval()
    model.set_latent_statistics(torch.randn(2, 4), torch.rand(2, 4) + 0.5)
    model.save_pretrained(tmp_path / "start")
    return str(tmp_path / "start"), model


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def batch() -> dict[str, torch.Tensor]:
    clip, target = torch.rand(2, 2, 3, 5, 16, 16, generator=generator_for(0)) * 2 - 1
    return {"clip": clip, "target": target, "times": torch.linspace(0, 1, 5)}


def train(model: AutoencoderRegen, config: OptimizerConfig) -> set[str]:
    """Take three steps; the names of the tensors that change."""
    optimizers, before = build_optimizers(model.train(), config), values(model)
    for step in range(3):
        model.loss(batch(), [generator_for(step, i) for i in range(2)])[0].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return {name for name, value in values(model).items() if not torch.equal(value, before[name])}


def test_a_model_of_the_same_size_is_the_start_model(start):
    folder, source = start
    model = fresh()
    report = init_weights(model, InitConfig(folder))
    assert_same(values(model), values(source))
    assert report.whole_encoder and not report.keeps_latents and report.warning is None
    assert model.config.latents_mean is None, "its encoder learns, so the latents will be measured"
    count = len(source.state_dict())
    assert f"{count} of {count} tensors loaded" in str(report)
    assert all(parameter.requires_grad for parameter in model.parameters())


CHANGES = {
    "channels": {"latent_channels": 6},
    "ratio": {"temporal_compression_ratio": 8, "encoder_widths": (8,) * 5},
    "decoder": {"width": 30, "depth": 3},
    "encoder": {"encoder_blocks": 2, "linear_skip": True},
    "posterior": {"kl_weight": 0.1},
    "conditioning": {"conditioning": "in_context"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_fits_is_loaded_and_the_rest_reported(change, start):
    folder, source = start
    model = fresh(**CHANGES[change])
    before, theirs = values(model), values(source)
    report = init_weights(model, InitConfig(folder))
    fits = {name for name, value in before.items() if name in theirs and theirs[name].shape == value.shape}
    for name, value in values(model).items():
        assert torch.equal(value, theirs[name] if name in fits else before[name]), name
    assert 0 < len(fits) < len(before)
    new = {f"{part.part}.{text.split()[0]}" for part in report.parts for text in part.new}
    assert new == before.keys() - fits
    unused = {f"{part.part}.{name}" for part in report.parts for name in part.unused}
    assert unused == theirs.keys() - before.keys()
    assert sum(part.parameters for part in report.parts) == sum(p.numel() for p in model.parameters())
    kept = sum(part.loaded_parameters for part in report.parts)
    assert kept == sum(before[name].numel() for name in fits)
    lines = str(report).splitlines()
    if change == "channels":
        assert "new: conv_out.conv.weight (4x8x1x1x1 in the source, 6x8x1x1x1 here)" in str(report)
    assert lines[0].startswith(f"Starting from {folder}: {len(fits)} of {len(before)} tensors loaded")
    assert all(any(line.startswith(f"  {part}: ") for line in lines) for part in ("encoder", "decoder"))


def test_the_encoder_goes_over_to_another_class(start):
    folder, source = start
    model = AutoencoderMagvit2(**asdict(BASELINE))
    report = init_weights(model, InitConfig(folder, ("encoder",)))
    assert_same(values(model.encoder), values(source.encoder))
    assert "conditioner: only in the source model" in str(report)
    assert report.whole_encoder and report.warning is None
    assert not report.keeps_latents, "its chunks are longer: their latents have other statistics"


def test_a_model_that_does_not_fit_or_is_missing_or_damaged_is_an_error(start, tmp_path):
    AutoencoderLinear(4, 4).save_pretrained(tmp_path / "linear")
    with pytest.raises(ValueError, match=r"No weights of .*linear \(AutoencoderLinear\)"):
        init_weights(fresh(), InitConfig(str(tmp_path / "linear")))
    with pytest.raises(ValueError, match="There is no model nowhere"):
        init_weights(fresh(), InitConfig("nowhere"))
    file = next(Path(start[0]).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        init_weights(fresh(), InitConfig(start[0]))


@pytest.mark.parametrize("muon", [None, 1e-2])
def test_with_the_encoder_frozen_the_latents_stay_those_of_the_start_model(muon, start):
    folder, source = start
    model = fresh(depth=3)
    report = init_weights(model, InitConfig(folder, ("encoder",)))
    assert report.keeps_latents and report.warning is None
    assert "frozen: the encoder, so the latents do not change" in str(report)
    changed = train(model, OptimizerConfig(1e-2, muon_learning_rate=muon, warmup_steps=0))
    assert changed == {name for name in values(model) if not name.startswith("encoder.")}
    clip = batch()["clip"]
    latents = source.encode(clip).latent_dist.mode()
    assert torch.equal(model.eval().encode(clip).latent_dist.mode(), latents)
    assert torch.equal(model.latents_mean, source.latents_mean)
    assert torch.equal(model.latents_std, source.latents_std)


def test_latents_of_the_start_model_train_a_decoder_as_its_clips_do(start):
    """The loss sees raw latents: those of the frozen encoder, and given ones with the statistics undone."""
    folder, source = start
    model = fresh(depth=3)
    init_weights(model, InitConfig(folder, ("encoder",)))
    data = batch()
    latents = source.encode(data["clip"]).latent_dist.mode().detach()
    encoded, _ = model.loss(data, [generator_for(i) for i in range(2)])
    given = {"latents": latents, "target": data["target"], "times": data["times"]}
    torch.testing.assert_close(model.loss(given, [generator_for(i) for i in range(2)])[0], encoded)


def test_a_siren_of_another_frequency_computes_what_it_did_in_the_start_model(start):
    folder, source = start
    model = fresh(siren_frequency=None)
    assert model.config.siren_frequency == 4.0
    init_weights(model, InitConfig(folder))
    latents, times = torch.randn(1, 4, 2, 3, 3), torch.tensor([-0.25, 0.0, 0.1, 1.0])
    torch.testing.assert_close(model.conditioner(latents, times), source.conditioner(latents, times))


def test_with_the_decoder_frozen_the_encoder_alone_learns(start):
    model = fresh()
    report = init_weights(model, InitConfig(start[0], ("decoder",)))
    assert str(report).endswith("frozen: the decoder") and not report.keeps_latents
    with pytest.raises(ValueError, match="--optimizer.muon-learning-rate None"):
        build_optimizers(model, OptimizerConfig(muon_learning_rate=1e-2))
    changed = train(model, OptimizerConfig(1e-2, warmup_steps=0))
    assert changed == {name for name in values(model) if name.startswith("encoder.")}


def test_a_frozen_encoder_that_is_not_a_trained_one_is_warned_of(start):
    for model, name in ((fresh(), None), (fresh(latent_channels=6), start[0])):
        report = init_weights(model, InitConfig(name, ("encoder",)))
        assert report.warning is not None and not report.keeps_latents
        assert not any(parameter.requires_grad for parameter in model.encoder.parameters())


def test_an_encoder_of_the_same_shapes_at_another_ratio_is_another_one(tmp_path):
    eight, sixteen = (fresh(temporal_compression_ratio=ratio, encoder_widths=(8,) * 5) for ratio in (8, 16))
    eight.set_latent_statistics(torch.zeros(2, 4), torch.ones(2, 4))
    eight.save_pretrained(tmp_path / "eight")
    report = init_weights(sixteen, InitConfig(str(tmp_path / "eight"), ("encoder",)))
    assert not any(part.new for part in report.parts), "the test's own assumption"
    assert report.warning is not None and not report.keeps_latents
    fresh(seed=0).save_pretrained(tmp_path / "unmeasured")
    report = init_weights(fresh(), InitConfig(str(tmp_path / "unmeasured"), ("encoder",)))
    assert report.whole_encoder and not report.keeps_latents, "it has no statistics yet"


def test_without_a_source_nothing_changes(start):
    model = fresh()
    before = values(model)
    assert str(init_weights(model, InitConfig())) == ""
    assert_same(values(model), before)
    with pytest.raises(ValueError, match="freeze only one"):
        InitConfig(start[0], ("encoder", "decoder"))


@pytest.mark.parametrize(("taps", "wanted"), [(5, 9), (9, 5), (1, 3), (5, 5)])
def test_a_kernel_resized_along_time_has_the_same_sum(taps, wanted):
    kernel = torch.randn(3, 2, taps, 4, 5)
    longer = inflate_kernel(kernel, torch.Size((3, 2, wanted, 4, 5)))
    assert longer.shape == (3, 2, wanted, 4, 5)
    torch.testing.assert_close(longer.sum(2), kernel.sum(2))
    line = torch.linspace(0, 1, taps)[:, None, None].expand(1, 1, taps, 4, 5)
    steps = inflate_kernel(line, torch.Size((1, 1, wanted, 4, 5)))[0, 0, :, 0, 0].diff()
    assert torch.allclose(steps, steps[:1], atol=1e-6) and (steps[0] > 0 or taps == 1)


def test_a_still_clip_has_the_same_latents_at_another_ratio(tmp_path):
    """For the linear skip of the encoder: its cube of pixels is longer, and as bright."""
    four = fresh(seed=0, linear_skip=True)
    four.save_pretrained(tmp_path / "four")
    eight = fresh(temporal_compression_ratio=8, encoder_widths=(8,) * 5, linear_skip=True)
    before = eight.encoder.linear_skip.conv.weight.clone()
    init_weights(eight, InitConfig(str(tmp_path / "four")))
    assert eight.encoder.linear_skip.conv.weight.shape == before.shape
    still = torch.randn(1, 3, 1, 16, 16)
    short, long = still.expand(-1, -1, 5, -1, -1), still.expand(-1, -1, 9, -1, -1)
    latents = four.encoder.linear_skip(short)
    torch.testing.assert_close(eight.encoder.linear_skip(long), latents, atol=1e-4, rtol=1e-4)


def linear_embedder(folder: Path, ratio: int = 4, channels: int = 4) -> AutoencoderLinear:
    torch.manual_seed(ratio)
    model = AutoencoderLinear(ratio, channels)
    model.standardise(torch.randn(2, channels), torch.rand(2, channels) + 0.5)
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("build", [AutoencoderRegen, AutoencoderMagvit2])
def test_a_linear_path_starts_from_a_linear_embedder(build, tmp_path):
    """Of the other ratio's model come the networks, of the linear embedder the linear path."""
    config = asdict(TINY if build is AutoencoderRegen else BASELINE) | {"linear_skip": "overlapping"}
    torch.manual_seed(1)
    awake(build(**config)).save_pretrained(tmp_path / "four")
    ratio = 32  # two latent frames in all models
    linear = linear_embedder(tmp_path / "linear", ratio)
    model = build(**config | {"temporal_compression_ratio": ratio, "encoder_widths": (8,) * 5})
    report = init_weights(model, InitConfig(linear=str(tmp_path / "linear")))
    assert f"Starting from {tmp_path / 'linear'}" in str(report)
    video = torch.rand(1, 3, 33, 16, 24) * 2 - 1
    frames = model.eval().decode(model.encode(video).latent_dist.mode()).sample
    expected = linear.decode(linear.encode(video).latent_dist.mode()).sample
    torch.testing.assert_close(frames, expected, atol=1e-5, rtol=1e-4)
    report = init_weights(model, InitConfig(str(tmp_path / "four"), linear=str(tmp_path / "linear")))
    for half in ("encoder", "decoder"):
        path = getattr(model, f"linear_{half}").state_dict()
        assert all(
            torch.equal(path[name], value) for name, value in getattr(linear, half).state_dict().items()
        )
    assert not report.whole_encoder and model.encoder.conv_out.conv.weight.any()


def test_a_start_model_of_the_same_ratio_keeps_its_linear_path(start, tmp_path):
    """As its own recipe, which names the linear embedder that it once began with, fine-tunes it."""
    source = fresh(seed=0, linear_skip="overlapping")
    source.save_pretrained(tmp_path / "source")
    linear_embedder(tmp_path / "linear")
    model = fresh(linear_skip="overlapping")
    report = init_weights(model, InitConfig(str(tmp_path / "source"), linear=str(tmp_path / "linear")))
    assert_same(values(model), values(source))
    assert report.whole_encoder and str(tmp_path / "linear") not in str(report)
    model = fresh(linear_skip="overlapping")
    report = init_weights(model, InitConfig(start[0], linear=str(tmp_path / "linear")))
    assert not report.whole_encoder, "that one had no linear path"
    assert not torch.equal(model.linear_encoder.content.weight, source.linear_encoder.content.weight)


def test_networks_of_another_width_begin_at_the_linear_path(tmp_path):
    """The zeros at their ends stay: what the other model learnt there would act on random features."""
    config = asdict(TINY) | {"detail_channels": 4}
    torch.manual_seed(1)
    awake(AutoencoderRegen(**config)).save_pretrained(tmp_path / "start")
    linear = linear_embedder(tmp_path / "linear")
    config |= {"width": 48, "encoder_widths": (12,) * 4, "linear_skip": "overlapping"}
    model = AutoencoderRegen(**config)
    report = init_weights(model, InitConfig(str(tmp_path / "start"), linear=str(tmp_path / "linear")))
    (decoder,) = (part for part in report.parts if part.part == "decoder")
    assert "detail.conv2.weight" in decoder.new
    video = torch.rand(1, 3, 5, 16, 24) * 2 - 1
    frames = model.eval().decode(model.encode(video).latent_dist.mode()).sample
    expected = linear.decode(linear.encode(video).latent_dist.mode()).sample
    torch.testing.assert_close(frames, expected, atol=1e-5, rtol=1e-4)


def test_a_linear_path_of_another_ratio_is_stretched_along_time(tmp_path):
    """A still clip has the same latents, and its frames are as bright."""
    four = fresh(seed=0, linear_skip="overlapping")
    four.save_pretrained(tmp_path / "four")
    eight = fresh(temporal_compression_ratio=8, encoder_widths=(8,) * 5, linear_skip="overlapping")
    init_weights(eight, InitConfig(str(tmp_path / "four")))
    still = torch.randn(1, 3, 1, 16, 16)
    short, long = (
        model.linear_encoder(still.expand(-1, -1, n, -1, -1)) for model, n in ((four, 5), (eight, 9))
    )
    torch.testing.assert_close(long, short, atol=1e-4, rtol=1e-4)
    means = [model.linear_decoder(short).mean(2) for model in (four, eight)]
    torch.testing.assert_close(*means, atol=1e-4, rtol=1e-4)


def test_the_linear_path_can_be_frozen_and_have_a_rate_of_its_own(tmp_path):
    linear_embedder(tmp_path / "linear")
    for freeze, still in ((("linear",), {"encoder", "decoder"}), (("encoder",), {"encoder"})):
        model = fresh(linear_skip="overlapping")
        init_weights(model, InitConfig(freeze=freeze, linear=str(tmp_path / "linear")))
        changed = train(model, OptimizerConfig(1e-2, warmup_steps=0))
        moved = {
            name.partition(".")[0].removeprefix("linear_") for name in changed if name.startswith("linear")
        }
        assert moved == {"encoder", "decoder"} - still
    model = fresh(linear_skip="overlapping")
    (adamw,) = build_optimizers(model, OptimizerConfig(1e-2, linear_learning_rate=1e-3))
    linear = {id(p) for name, p in model.named_parameters() if name.startswith(LINEAR_PATH)}
    rates = {id(p): group["initial_lr"] for group in adamw.param_groups for p in group["params"]}
    assert len(rates) == len([*model.parameters()])
    assert all(rate == (1e-3 if number in linear else 1e-2) for number, rate in rates.items())


def test_a_linear_path_needs_a_linear_embedder_of_its_kind(start, tmp_path):
    linear_embedder(tmp_path / "other", ratio=8)
    for model, name, words in (
        (fresh(), "other", "--model.linear-skip overlapping"),
        (fresh(linear_skip="overlapping"), "other", "of ratio 4 with 4 channels.*of ratio 8 with 4"),
        (fresh(linear_skip="overlapping"), "start", "is an AutoencoderRegen"),
    ):
        with pytest.raises(ValueError, match=words):
            init_weights(model, InitConfig(linear=str(tmp_path / name)))


ONE_DVA = OneDVAConfig(
    latent_channels=6, encoder_width=24, encoder_depth=1, encoder_heads=2, width=24, depth=1, heads=2,
    pixel_channels=2, num_queries=20, kl_weight=0.0, linear_skip=True, chunk_frames=5,
    temporal_compression_ratio=2, spatial_compression_ratio=8,
)  # fmt: skip


def clip_batches(tmp_path: Path) -> list[dict[str, torch.Tensor]]:
    make_video(tmp_path / "a.mp4", 30, 32, 40)
    clips = ClipDataset([tmp_path])
    return [
        {"clip": torch.stack([clips.read(2 * i + j, 5, (16, 16), (0.5, 1.0), 0) for j in range(2)])}
        for i in range(8)
    ]


def test_pca_begins_with_the_smallest_error_of_a_linear_embedder(tmp_path):
    torch.manual_seed(0)
    model, data = AutoencoderOneDVA(**asdict(ONE_DVA)), clip_batches(tmp_path)
    init_from_pca(model, data, 16)
    clips = torch.cat([batch["clip"] for batch in data])
    patches = model.patches.patchify(model.patches.pad(clips)).flatten(0, 1)
    values = torch.linalg.svdvals((patches - patches.mean(0)).double())
    least = (values[ONE_DVA.latent_channels :].square().sum() / patches.numel()).item()
    latents = model.encode(clips).latent_dist.mode()
    padded = model.decoder.to_pixels(torch.zeros(len(clips), 2, 6, 16, 16), latents.grid)
    error = (padded - model.patches.pad(clips)).square().mean().item()
    assert error == pytest.approx(least, rel=1e-2, abs=1e-6)
    assert latents.grid.std().item() == pytest.approx(1, rel=0.05)


def test_linear_maps_can_be_frozen():
    model = AutoencoderOneDVA(**asdict(ONE_DVA))
    report = init_weights(model, InitConfig(freeze=("linear",), pca_clips=4))
    frozen = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    names = [f"{half}.linear_skip.{kind}" for half in ("encoder", "decoder") for kind in ("weight", "bias")]
    assert sorted(frozen) == sorted(names)
    assert "frozen: the linear maps" in str(report)


def test_models_without_linear_maps_are_refused():
    without = AutoencoderOneDVA(**asdict(ONE_DVA) | {"linear_skip": False})
    with pytest.raises(ValueError, match="linear maps"):
        init_from_pca(without, [], 4)
    with pytest.raises(ValueError, match="must be initialised"):
        init_weights(AutoencoderOneDVA(**asdict(ONE_DVA)), InitConfig(freeze=("linear",)))
    with pytest.raises(ValueError, match="no linear maps to freeze"):
        init_weights(without, InitConfig(freeze=("linear",), pca_clips=4))
    for options in ({"pca_clips": -1}, {"pca_clips": 4, "model": "other"}):
        with pytest.raises(ValueError, match="pca_clips"):
            InitConfig(**options)
