"""A training of a generator from exported latents to a finished model: exact resuming, processes, errors."""

import json
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import run_ranks
from tiny_generator import awake, condition_of, latents_of, make_batch
from tiny_latents import export, make_hybrid_model, make_model
from tiny_media import make_image, make_video
from tiny_run import assert_same
from tiny_text import make_t5

from regen.console import Interrupted
from regen.corpus.dataset import LatentDataset
from regen.data.batches import BatchKey
from regen.generate.generator import GeneratorConfig, LatentGenerator
from regen.generate.latent_batches import LatentBatches, LatentStage, make_latent_spec
from regen.generate.training import GeneratorRecipe, LatentDataConfig, run_generator, split_samples
from regen.generate.video_shape import video_shape
from regen.pretrained.models import load_as
from regen.train.checkpoint import list_checkpoints, load_ema
from regen.train.distributed import DistributedContext, init_distributed
from regen.train.loop import LoopConfig
from regen.train.optimizer import OptimizerConfig
from regen.train.throughput import ThroughputMeter

CPU = torch.device("cpu")
ALONE = DistributedContext(CPU)
NAMES = ("straight", "halves")
STAGE = LatentStage(tokens_per_batch=400, image_share=0.3, chunks=(1, 2))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("generator") / "corpus"
    folder.mkdir()
    for number in range(6):
        path = folder / str(number)
        if number == 2:
            make_image(path.with_suffix(".png"), 32, 64)
        else:
            make_video(path.with_suffix(".mp4"), 34 if number % 2 else 20, 32, 64)
        path.with_suffix(".txt").write_text(("the cat sits", "a red ball rolls")[number % 2])
        path.with_suffix(".cls").write_text(str(number % 3))
    (folder / "classes.json").write_text('{"cat": 0, "dog": 2}')
    return folder


@pytest.fixture(scope="module")
def latents(corpus) -> Path:
    return export(make_model(corpus.parent / "model"), corpus, corpus.parent / "latents")


@pytest.fixture(scope="module")
def hybrid(corpus) -> Path:
    return export(make_hybrid_model(corpus.parent / "hybrid"), corpus, corpus.parent / "hybrid-latents")


@pytest.fixture(scope="module")
def text(corpus) -> str:
    return make_t5(corpus.parent / "t5")


def tiny(condition: str = "class", steps: int = 2, text: str = "", **changes: Any) -> GeneratorRecipe:
    model = {"width": 24, "depth": 2, "heads": 2, "num_joint_layers": 1 if condition == "text" else 0}
    data = {"stages": (STAGE,), "num_val_samples": 2, "preview_samples": 0, "text_encoder": text}
    loop = {"mixed_precision": "fp32", "num_workers": 0, "eval_every": steps, "ema_decay": 0.5}
    groups = [
        {name: changes.pop(name) for name in [*changes] if name in kind.__annotations__}
        for kind in (GeneratorConfig, LatentDataConfig, LoopConfig)
    ]
    return GeneratorRecipe(
        GeneratorConfig(**model | groups[0]),
        LatentDataConfig(**{"condition": condition} | data | groups[1]),
        LoopConfig(steps, **loop | groups[2]),
        OptimizerConfig(1e-3, warmup_steps=0),
        **changes,
    )


def load(folder: Path) -> LatentGenerator:
    return load_as(LatentGenerator, folder, CPU, torch.float32)


def logged(run: Path, name: str) -> list[float]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


@pytest.mark.parametrize(
    ("kind", "condition"), [("latents", "text"), ("latents", "none"), ("hybrid", "class")]
)
def test_from_latents_to_a_finished_model(kind, condition, text, tmp_path, request, capfd):
    latents = request.getfixturevalue(kind)
    recipe = tiny(condition, text=text, preview_samples=2, preview_steps=2)
    folder = run_generator(recipe, latents, tmp_path / "run", ALONE)
    assert folder == tmp_path / "run" / "model"
    model, dataset = load(folder), LatentDataset(latents)
    own = model.latent_spec
    assert (own.embedder, own.weights_hash) == (dataset.manifest.model, dataset.manifest.weights)
    assert own.sizes == ((32, 64),) and own.max_chunks == 2 and own.frame_rate == pytest.approx(30000 / 1001)
    assert (own.chunk_frames, own.chunk_latents) == ((5, 2) if kind == "latents" else (17, 5))
    if kind == "hybrid":
        assert own.has_sequence
        assert (own.spatial_compression_ratio, own.region_size, own.num_queries) == (16, 2, 20)
        videos = np.flatnonzero(dataset.column("frames") > 1).tolist()
        regions = sum(dataset.latents(number).lengths.numel() for number in videos)
        assert sum(map(sum, own.length_counts)) == regions and len(own.length_counts) == 3
    if condition == "text":
        assert model.config.text_encoder["name"] == text and model.config.text_width == 32
        assert model.config.text_encoder["max_tokens"] == 24
    assert model.config.classes == (["cat", "1", "dog"] if condition == "class" else None)
    assert len([*(tmp_path / "run" / "previews").glob("*.png")]) == 1
    (loss,) = logged(tmp_path / "run", "evaluation/validation_loss")
    assert loss > 0 and logged(tmp_path / "run", "tokens_per_second")
    assert min(logged(tmp_path / "run", "tflops_per_second")) > 0
    # A hybrid embedder has no images but the one of the data, which is not kept out.
    assert ("warning" in capfd.readouterr().err) == (kind == "hybrid")


def test_a_resumed_training_is_the_same_to_the_bit(hybrid, tmp_path, monkeypatch):
    recipe = tiny("class", 4)
    run_generator(recipe, hybrid, tmp_path / "straight", ALONE)
    read = LatentBatches.__getitem__

    def stopping(batches: LatentBatches, key: BatchKey) -> dict[str, torch.Tensor]:
        if key[0] == 1 and len(batches.indices) > 2:
            signal.raise_signal(signal.SIGTERM)
        return read(batches, key)

    with monkeypatch.context() as patch:
        patch.setattr(LatentBatches, "__getitem__", stopping)
        with pytest.raises(Interrupted, match="after step 2"):
            run_generator(recipe, hybrid, tmp_path / "halves", ALONE)
    run_generator(recipe, hybrid, tmp_path / "halves", ALONE)
    averages = [load_ema(list_checkpoints(tmp_path / name / "checkpoints")[-1]) for name in NAMES]
    finished = [load(tmp_path / name / "model").state_dict() for name in NAMES]
    assert_same(*averages)
    assert_same(*finished)


def _train(recipe: GeneratorRecipe, latents: Path, out: Path) -> None:
    with init_distributed("cpu") as world:
        run_generator(recipe, latents, out, world)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("fsdp", "attention", "kind"),
    [(False, "joint", "hybrid"), (True, "joint", "hybrid"), (True, "factorised", "latents")],
)
def test_two_processes_train_the_same_model(fsdp, attention, kind, request, tmp_path):
    """Also with pictures, which take both where they share the weights; and in two passes."""
    data = request.getfixturevalue(kind)
    recipe = tiny(steps=3, preview_samples=1, preview_steps=1, attention=attention)
    run_generator(recipe, data, tmp_path / "one", ALONE)
    two = replace(recipe, loop=replace(recipe.loop, gradient_accumulation_steps=1 if fsdp else 2, fsdp=fsdp))
    run_ranks(2, partial(_train, two, data), tmp_path / "two", errors=tmp_path / "errors")
    one, two = (load(tmp_path / name / "model").state_dict() for name in ("one", "two"))
    torch.testing.assert_close(two, one, atol=2e-4, rtol=1e-3)
    one, two = (logged(tmp_path / name, "evaluation/validation_loss") for name in ("one", "two"))
    assert one == pytest.approx(two, rel=1e-3)
    assert len([*(tmp_path / "two" / "previews").glob("*.png")]) == 1


def test_the_loss_falls_and_a_training_starts_from_another(latents, tmp_path):
    stage = replace(STAGE, tokens_per_batch=400, chunks=(1,))
    recipe = tiny(steps=40, stages=(stage,), log_every=1, given_frames_prob=0.0)
    run_generator(recipe, latents, tmp_path / "first", ALONE)
    losses = logged(tmp_path / "first", "loss")
    assert len(losses) == 40 and sum(losses[-10:]) < 0.9 * sum(losses[:10])
    further = tiny(steps=1, stages=(stage,), init_from=str(tmp_path / "first"), log_every=1)
    further = replace(further, optimizer=OptimizerConfig(1e-12, warmup_steps=0))
    run_generator(further, latents, tmp_path / "second", ALONE)
    first, second = (load(tmp_path / name / "model").state_dict() for name in ("first", "second"))
    torch.testing.assert_close(second, first, atol=1e-9, rtol=1e-6)
    for changes in ({"width": 32}, {"depth": 1}, {"depth": 3}, {"condition": "none"}):
        with pytest.raises(ValueError, match=r"doesn't fit this recipe \(.* weights differ"):
            run_generator(
                tiny(**{"init_from": str(tmp_path / "first")} | changes), latents, tmp_path / "third", ALONE
            )


def test_missing_inputs_raise(corpus, latents, text, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(corpus / "1.mp4", bare)
    shutil.copy(corpus / "4.mp4", bare)
    out, nothing = tmp_path / "run", export(str(corpus.parent / "model"), bare, tmp_path / "nothing")
    small = (replace(STAGE, until=0.5), LatentStage(tokens_per_batch=8))
    lost = shutil.copytree(nothing, tmp_path / "lost")
    for path in lost.glob("00000.*"):
        path.unlink()
    for recipe, folder, words in (
        (tiny("text", text=text, num_val_samples=1), nothing, "no captions; add NAME.txt"),
        (tiny("class", num_val_samples=1), nothing, "no classes; add NAME.cls"),
        (tiny("none"), nothing, "num_val_samples .* 2 samples, got 2"),
        (tiny(stages=small, gradient_accumulation_steps=2), latents, "at least 2 samples .* got 1"),
        (tiny("none", num_val_samples=1), lost, "shards of latents .* are missing"),
        (tiny("none"), tmp_path / "nowhere", "latents"),
    ):
        with pytest.raises(ValueError, match=words):
            run_generator(recipe, folder, out, ALONE)
    with pytest.raises(ValueError, match="num_val_samples .* got 0"):
        tiny(num_val_samples=0)
    assert not out.exists()


def test_without_its_embedder_a_training_has_no_pictures(corpus, latents, tmp_path, capfd):
    copied, weights = shutil.copytree(latents, tmp_path / "latents"), LatentDataset(latents).manifest.weights
    manifest = copied / "manifest.json"
    manifest.write_text(manifest.read_text().replace(weights, weights[::-1]))
    run_generator(tiny(preview_samples=1, steps=1), copied, tmp_path / "run", ALONE)
    assert "no previews of this training: The latents in" in capfd.readouterr().err
    assert (tmp_path / "run" / "model").is_dir() and not (tmp_path / "run" / "previews").exists()


def test_sizes_are_those_of_the_videos_in_training(latents):
    dataset = LatentDataset(latents)
    assert make_latent_spec(dataset, (STAGE,), True).sizes == ((32, 64),)
    assert make_latent_spec(dataset, (replace(STAGE, sizes=((16, 16),)),), True).sizes == ()


def test_without_held_out_samples_of_the_last_stage_there_is_a_warning(latents, tmp_path, capfd):
    """The first sample is kept out, which has 20 frames; others have 34, 6 whole chunks."""
    stage = LatentStage(tokens_per_batch=400, image_share=0.0, chunks=(6,))
    run_generator(tiny(stages=(stage,), steps=1, num_val_samples=1), latents, tmp_path / "run", ALONE)
    assert "raise --data.num-val-samples" in capfd.readouterr().err


def test_samples_are_kept_out_at_equal_distances(latents):
    dataset = LatentDataset(latents)
    numbers, kept = split_samples(dataset, 3)
    assert kept.tolist() == [0, 2, 5] and sorted([*numbers, *kept]) == [*range(6)]


@pytest.mark.parametrize("attention", ["joint", "factorised"])
def test_a_training_at_a_size_that_patches_do_not_divide(latents, attention, tmp_path):
    """Latents of 4 x 8; videos are generated at that size, without padding."""
    recipe = tiny(patch_size=3, attention=attention, preview_samples=1, preview_steps=1)
    model = load(run_generator(recipe, latents, tmp_path / "run", ALONE))
    shape = video_shape(model.latent_spec, 3)
    assert (shape.rows, shape.columns, shape.notes) == (4, 8, ())
    assert len([*(tmp_path / "run" / "previews").glob("*.png")]) == 1


def test_of_images_alone_a_chunk_is_an_image(corpus, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    make_image(images / "a.png", 32, 64)
    dataset = LatentDataset(export(str(corpus.parent / "model"), images, tmp_path / "latents"))
    source = make_latent_spec(dataset, tiny("none").data.stages, by_class=False)
    assert (source.chunk_frames, source.chunk_latents) == (1, 1)


@pytest.mark.parametrize("kind", ["text", "hybrid class"])
def test_operations_of_a_generator_are_counted(kind):
    model = awake(kind).train()

    def flops(batch: dict[str, torch.Tensor]) -> float:
        meter = ThroughputMeter(model, CPU, 1)
        meter.started -= 1e6
        meter.add(batch, 0.0)
        assert meter.tokens == batch["latents"][:, 0].numel()
        return meter.report()["tflops_per_second"]

    batch = make_batch(latents_of(kind, 3), condition_of(kind, 3))
    one = {name: value[:1] for name, value in batch.items()}
    assert flops(batch) == pytest.approx(3 * flops(one), rel=1e-3)
    if "sequence" in batch:  # every batch has another number of them, and is not counted anew
        longer = batch | {"sequence": torch.cat([batch["sequence"], torch.zeros(3, 4, 1)], dim=2)}
        assert flops(longer) == pytest.approx(flops(batch), rel=1e-3)
        assert flops(batch | {"sequence": torch.zeros(3, 4, 64 + 1)}) > 1.1 * flops(batch)
    smaller = make_batch(latents_of(kind, 3, height=2), condition_of(kind, 3))
    assert 0 < flops(smaller) < flops(batch)
