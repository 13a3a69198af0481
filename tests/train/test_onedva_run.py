"""One-DVA from scratch to post-training: stages, exact resuming, several processes."""

import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from movies import make_movie
from ranks import run_ranks
from tests.train.test_trainer import CPU
from tiny_run import assert_same, saved_tensors

from regen.console import Interrupted
from regen.data.batches import BatchKey, TrainingBatches
from regen.data.tasks import Stage
from regen.embedders.one_dva import AutoencoderOneDVA
from regen.generate.generator import LatentGenerator
from regen.generate.predictor import GeneratorPredictor
from regen.losses.alignment import AlignmentConfig
from regen.losses.auxiliary import LossConfig
from regen.losses.one_dva import PredictionConfig
from regen.networks.length_rule import MotionLengthRule
from regen.recipes import RECIPES
from regen.train.distributed import init_distributed
from regen.train.finetune import InitConfig
from regen.train.recipe import Recipe, build_model
from regen.train.trainer import run_recipe


def tiny(steps: int = 2, **changes) -> Recipe:
    recipe = RECIPES["toy-onedva"]
    model = replace(
        recipe.model, latent_channels=4, encoder_width=24, encoder_depth=1, encoder_heads=2,
        width=24, depth=1, heads=2, pixel_channels=2, num_queries=8, region_size=2,
        chunk_frames=5, length_rule=MotionLengthRule(multiple=1),
    )  # fmt: skip
    stage = Stage(24, 32, video_batch_size=2, image_batch_size=4)
    data = replace(recipe.data, stages=(stage,), num_val_videos=1, num_val_clips=1, statistics_clips=4)
    loop = replace(recipe.loop, steps=steps, eval_every=steps, mixed_precision="fp32")
    return replace(recipe, **{"model": model, "data": data, "loop": loop, "init": InitConfig()} | changes)


@pytest.mark.integration
@pytest.mark.parametrize("lengths", ["full", "none"])
def test_two_stages_and_post_training(lengths, videos, tmp_path, capsys):
    """Stage 1 with all 1D latents, or with structural latents only."""
    stage1 = tiny(init=InitConfig(freeze=("linear",), pca_clips=4))
    objective = replace(RECIPES["onedva-small-stage1-cpu"].model.objective, lengths=lengths)
    stage1 = replace(stage1, model=replace(stage1.model, objective=objective))
    run_recipe(stage1, [videos], tmp_path / "stage1", CPU)
    stage2 = tiny(init=InitConfig(str(tmp_path / "stage1"), freeze=("linear",)))
    before = AutoencoderOneDVA.from_pretrained(run_recipe(stage2, [videos], tmp_path / "stage2", CPU))
    first = AutoencoderOneDVA.from_pretrained(tmp_path / "stage1" / "model")
    for half in ("encoder", "decoder"):  # which were fitted, not learned
        ours, theirs = (getattr(model, half).linear_skip.weight for model in (before, first))
        assert torch.equal(ours, theirs)
    assert first.objective.lengths == lengths and before.objective.lengths == "motion"
    post = tiny(
        init=InitConfig(str(tmp_path / "stage2"), freeze=("encoder",)),
        losses=LossConfig(prediction=PredictionConfig(share=0.5)),
    )
    after = AutoencoderOneDVA.from_pretrained(run_recipe(post, [videos], tmp_path / "post", CPU))
    assert_same(after.encoder.state_dict(), before.encoder.state_dict())
    assert not torch.equal(after.decoder.proj_out.weight, before.decoder.proj_out.weight)
    assert torch.equal(after.latents_std, before.latents_std)
    assert "frozen: the encoder, so the latents do not change" in capsys.readouterr().err


@pytest.mark.integration
def test_four_updates_are_two_and_two_more(videos, tmp_path, monkeypatch):
    run_recipe(tiny(4), [videos], tmp_path / "straight", CPU)
    read = TrainingBatches.__getitem__

    def stopping(batches: TrainingBatches, key: BatchKey) -> dict[str, torch.Tensor]:
        if key[0] == 1:
            signal.raise_signal(signal.SIGTERM)
        return read(batches, key)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingBatches, "__getitem__", stopping)
        with pytest.raises(Interrupted, match="after step 2"):
            run_recipe(tiny(4), [videos], tmp_path / "halves", CPU)
    run_recipe(tiny(4), [videos], tmp_path / "halves", CPU)
    assert_same(saved_tensors(tmp_path / "straight"), saved_tensors(tmp_path / "halves"))


def aligned(fsdp: bool = False) -> Recipe:
    """Self-alignment from the first update on, with its projection."""
    recipe = tiny(3, losses=LossConfig(alignment=AlignmentConfig(1.0, ramp=0.0, projection=True)))
    return replace(recipe, loop=replace(recipe.loop, fsdp=fsdp))


def _train(videos: Path, fsdp: bool, out: Path) -> None:
    with init_distributed("cpu") as context:
        run_recipe(aligned(fsdp), [videos], out, context)


@pytest.mark.integration
@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp"])
def test_two_processes_train_the_same_model(fsdp, videos, tmp_path):
    """And hold the same running means of the latents."""
    run_recipe(aligned(), [videos], tmp_path / "one", CPU)
    run_ranks(2, partial(_train, videos, fsdp), tmp_path / "two", errors=tmp_path / "errors")
    one, two = (AutoencoderOneDVA.from_pretrained(tmp_path / name / "model") for name in ("one", "two"))
    torch.testing.assert_close(two.state_dict(), one.state_dict(), atol=2e-4, rtol=1e-3)
    one, two = (saved_tensors(tmp_path / run) for run in ("one", "two"))
    means = [x["auxiliary.alignment.totals"] for x in (one, two)]
    assert means[0].any()
    means = [total[:, :-1] / total[:, -1:] for total in means]  # sums are averaged over the processes
    torch.testing.assert_close(means[1], means[0], atol=2e-4, rtol=1e-3)
    name = "auxiliary.alignment.projection.weight"
    assert not torch.equal(one[name], torch.eye(4))
    torch.testing.assert_close(two[name], one[name], atol=2e-4, rtol=1e-3)


def test_post_training_predicts_with_the_class_of_each_sample(tmp_path):
    """The class is the brightness of the video, so that both are seen together."""
    media, embedder = tmp_path / "media", tmp_path / "embedder"
    media.mkdir()
    for label, value in enumerate((20, 90, 160, 230)):
        make_movie(media / f"{label}.mp4", [np.full((48, 64, 3), value, np.uint8)] * 6)
        (media / f"{label}.cls").write_text(str(label))
    finished = build_model(tiny().model)
    finished.set_latent_statistics(torch.zeros(2, 4), torch.full((2, 4), 2.0))
    finished.save_pretrained(embedder)
    recipe = tiny(
        3,
        init=InitConfig(str(embedder), freeze=("encoder",)),
        losses=LossConfig(prediction=PredictionConfig(share=0.5)),
    )
    spec = {"channels": 4, "has_sequence": True, "region_size": 2, "num_queries": 8}
    model = LatentGenerator(width=24, depth=1, heads=2, latent_spec=spec, classes=list("abcd"), patch_size=1)
    conditional, seen = GeneratorPredictor(model, "generator", CPU), []

    def predict(clean, t, generators, batch):
        seen.append((batch["clip"].mean((1, 2, 3, 4)), batch["label"]))
        return conditional(clean, t, generators, batch)

    run_recipe(
        recipe, [media], tmp_path / "run", CPU, predictor=predict, media_conditions=conditional.conditions
    )
    assert len(seen) == 3
    for brightness, label in seen:
        assert len(brightness) == len(label)
        torch.testing.assert_close(brightness, (20 + 70 * label) / 127.5 - 1, atol=0.03, rtol=0)
    assert len(torch.cat([label for _, label in seen]).unique()) > 1


def test_post_training_without_a_finished_model_and_options_of_other_methods_are_refused(videos, tmp_path):
    recipe = tiny(losses=LossConfig(prediction=PredictionConfig(share=0.5)))
    with pytest.raises(ValueError, match="--init.freeze encoder"):
        run_recipe(recipe, [videos], tmp_path / "run", CPU)
    with pytest.raises(ValueError, match="tasks.warmup_fraction"):
        tiny(tasks=replace(tiny().tasks, warmup_fraction=0.5))
    for options in (
        {"init": InitConfig(pca_clips=3)}, {"losses": LossConfig(alignment=AlignmentConfig(0.1))}
    ):  # fmt: skip
        with pytest.raises(ValueError, match="Only One-DVA"):
            replace(RECIPES["toy-magvit2"], **options)
