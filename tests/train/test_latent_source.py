"""A decoder that is trained on exported latents: the same loss as on the fly, and no encoder."""

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.test_trainer import CPU
from tiny_diffusers_models import wan
from tiny_latents import export, make_hybrid_model
from tiny_media import make_image, make_video, tiny_magvit2
from tiny_run import assert_same, saved_tensors
from torch.utils.flop_counter import FlopCounterMode

from regen import RegenDecoder
from regen.console import Interrupted
from regen.corpus.dataset import LatentDataset
from regen.corpus.pairs import PairedClips
from regen.data.batches import BatchKey, TrainingBatches
from regen.data.clips import ClipSpec
from regen.data.tasks import Stage, TaskConfig
from regen.embedders.frozen_encoder import load_frozen_encoder
from regen.media.pixels import uint8_to_signed
from regen.recipes import RECIPES
from regen.recipes.updates import assumptions, encoder_tflop, list_updates
from regen.runtime import generator_for
from regen.train.dataloader import BatchLoader
from regen.train.latent_source import plan_source, spans, use_exported
from regen.train.recipe import Recipe, build_model
from regen.train.trainer import make_batches, run_recipe

SIZE = (32, 40)


def tiny(steps: int = 4, **model: Any) -> Recipe:
    recipe = RECIPES["toy-decoder"]
    stage = Stage(16, 16, video_batch_size=2, image_batch_size=2, margin=8)
    return replace(
        recipe,
        model=replace(recipe.model, width=24, depth=1, siren_width=8, **model),
        data=replace(recipe.data, stages=(stage,), num_val_videos=1, num_val_clips=1, statistics_clips=4),
        tasks=replace(recipe.tasks, image_share=0.3),
        loop=replace(recipe.loop, steps=steps, eval_every=steps, mixed_precision="fp32"),
        init=replace(recipe.init, linear_clips=4),
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of 20 frames, which are a part of a chunk of 33, and an image."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(3):
        make_video(folder / f"{number}.mp4", 20, *SIZE)
    make_image(folder / "image.png", *SIZE)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "wan"
    torch.manual_seed(0)
    wan().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(data: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(str(encoder), data, tmp_path_factory.mktemp("latents") / "wan", size=None)


def changed(exported: Path, folder: Path, **fields: Any) -> Path:
    """A copy of an export with other fields of its manifest."""
    shutil.copytree(exported, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | fields))
    return folder


@pytest.fixture
def without_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the source may load an encoder."""

    def refuse(*_: object) -> None:
        raise AssertionError("an encoder was loaded")

    for module in ("embedders.regen_decoder", "train.latent_source"):
        monkeypatch.setattr(f"regen.{module}.load_frozen_encoder", refuse)
    monkeypatch.setattr("regen.train.latent_source.read_encoder", refuse)


@pytest.mark.usefixtures("without_encoders")
def test_a_decoder_is_trained_and_no_encoder_is_there(data, exported, tmp_path):
    folder = run_recipe(tiny(2), [data], tmp_path / "run", CPU, latents=exported)
    assert [*(tmp_path / "run" / "previews").iterdir()]
    model = RegenDecoder.from_pretrained(folder)
    space = LatentDataset(exported).manifest.latent_space
    assert (model.config.encoder, model.config.encoder_hash) == (space["encoder"], space["encoder_hash"])
    assert model.chunk_frames == 33 and model.preview(torch.zeros(1, 2, 9, 2, 2)).shape[2] == 33
    assert model.decode(torch.zeros(1, 2, 3, 2, 2)).sample.shape == (1, 3, 9, 16, 16)
    other = changed(exported, tmp_path / "other", weights="0" * 16)
    with pytest.raises(ValueError, match="files_fingerprint"):
        run_recipe(tiny(2), [data], tmp_path / "run", CPU, latents=other)


@pytest.mark.slow
def test_the_same_recipe_encodes_on_the_fly(data, encoder, tmp_path):
    model = RegenDecoder.from_pretrained(
        run_recipe(tiny(2, encoder=str(encoder), chunk_frames=9), [data], tmp_path / "run", CPU)
    )
    assert model.chunk_frames == 9 and model.preview(torch.zeros(1, 2, 3, 2, 2)).shape[2] == 9


@pytest.mark.slow
@pytest.mark.usefixtures("without_encoders")
def test_two_updates_and_two_more_are_four(data, exported, tmp_path, monkeypatch):
    recipe, read = tiny(4), TrainingBatches.__getitem__
    run_recipe(recipe, [data], tmp_path / "straight", CPU, latents=exported)

    def stopping(batches: TrainingBatches, key: BatchKey) -> dict[str, torch.Tensor]:
        if key[0] == 1 and len(batches) == recipe.loop.steps:
            signal.raise_signal(signal.SIGTERM)
        return read(batches, key)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingBatches, "__getitem__", stopping)
        with pytest.raises(Interrupted, match="after step 2"):
            run_recipe(recipe, [data], tmp_path / "halves", CPU, latents=exported)
    workers = replace(recipe, loop=replace(recipe.loop, num_workers=2))
    run_recipe(workers, [data], tmp_path / "halves", CPU, latents=exported, cache=tmp_path / "cache")
    assert_same(saved_tensors(tmp_path / "straight"), saved_tensors(tmp_path / "halves"))


@pytest.mark.parametrize(("build", "latent_dtype"), [(wan, "fp32"), (tiny_magvit2, "bf16")])
def test_the_loss_of_whole_pictures_is_that_on_the_fly(build, latent_dtype, tmp_path):
    """Of all groups of a chunk, and of images; with latents in bf16 as close as those are."""
    folder, data = tmp_path / "encoder", tmp_path / "data"
    data.mkdir()
    make_video(data / "a.mp4", 40, *SIZE)
    build().save_pretrained(folder)
    frozen = load_frozen_encoder(str(folder), torch.device("cpu"), torch.float32, 33)
    latents = LatentDataset(export(str(folder), data, tmp_path / "latents", latent_dtype=latent_dtype))
    groups = (frozen.space.chunk_frames - 1) // 4
    recipe = use_exported(tiny(encoder=str(folder), groups_per_clip=groups), latents)
    assert asdict(recipe.model) == asdict(recipe.model) | vars(frozen.space)
    model = build_model(recipe.model)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    stage = Stage(*SIZE, video_batch_size=1, image_batch_size=1)
    tasks, (window, _) = TaskConfig(0.5, 1.0), spans(recipe, model.chunk_frames, latents)
    batches = make_batches(PairedClips(latents, [data]), recipe, window, tasks, (stage,), 4)
    counts = set()
    for batch in BatchLoader(batches, [(step, 0, 1) for step in range(4)], 0, torch.device("cpu")):
        counts.add(batch["target"].shape[2])
        losses = []
        for inputs in ({"latents": batch["latents"], "begin": batch["begin"]}, {"clip": batch["target"]}):
            model.attach_encoder(frozen)
            rest = {name: batch[name] for name in ("target", "times")}
            losses.append(model.loss(inputs | rest, [generator_for(3, 0)])[0])
        torch.testing.assert_close(*losses, rtol=1e-4 if latent_dtype == "fp32" else 2e-2, atol=0)
    assert counts == {1, model.chunk_frames}


def test_a_part_of_a_chunk_gives_the_pairs_of_the_whole(data, exported):
    """The first latent frame is an image at the begin of a chunk alone."""
    dataset = LatentDataset(exported)
    model = build_model(use_exported(tiny(), dataset).model)
    whole = PairedClips(dataset, [data]).sample(0, ClipSpec(17, SIZE), 0)
    assert whole.latents is not None
    latents, video = whole.latents[None], uint8_to_signed(whole.video)[None]
    every = model.group(latents, video, torch.tensor([[1, 2, 3, 4]]))
    for begin in range(3):
        part = latents[:, :, begin : begin + 3], video[:, :, 4 * begin : 4 * begin + 9]
        pair, frames = model.group(*part, torch.tensor([[1, 2]]), torch.tensor([begin]))
        assert torch.equal(pair, every[0][begin : begin + 2]) and torch.equal(
            frames, every[1][begin : begin + 2]
        )


def test_the_encoder_by_its_name_is_compared(data, encoder, exported, tmp_path):
    recipe = use_exported(tiny(encoder=f"diffusers:{encoder}"), LatentDataset(exported))
    assert recipe.model.encoder == f"diffusers:{encoder}" and recipe.model.latent_channels == 2
    assert (recipe.tasks.share_start, recipe.tasks.share_end) == (0, 0)
    other, scaled = tmp_path / "other", shutil.copytree(encoder, tmp_path / "scaled")
    torch.manual_seed(1)
    wan().save_pretrained(other)
    with pytest.raises(ValueError, match=r"are of .*wan \(AutoencoderKLWan, hash \w+\), got .*other"):
        use_exported(tiny(encoder=str(other)), LatentDataset(exported))
    config = json.loads((scaled / "config.json").read_text())
    (scaled / "config.json").write_text(json.dumps(config | {"latents_std": [2.0, 0.75]}))
    with pytest.raises(ValueError, match="scaled by other means and deviations"):
        use_exported(tiny(encoder=str(scaled)), LatentDataset(exported))


def test_statistics_of_a_model_of_this_package_are_compared(data, tmp_path):
    model = tiny_magvit2()
    model.save_pretrained(tmp_path / "model")
    latents = LatentDataset(export(str(tmp_path / "model"), data, tmp_path / "latents"))
    assert use_exported(tiny(encoder=str(tmp_path / "model")), latents).model.chunk_frames == 17
    model.set_latent_statistics(torch.ones(2, 4), torch.ones(2, 4))
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="scaled by other means"):
        use_exported(tiny(encoder=str(tmp_path / "model")), latents)


def test_latents_that_do_not_fit_are_refused(data, exported, tmp_path):
    dataset = LatentDataset(exported)
    space = dataset.manifest.latent_space
    refused: list[tuple[str, Callable[[], object]]] = [
        ("Only decoders of the latents of others", lambda: use_exported(RECIPES["toy"], dataset)),
        ("distillation_weight needs", lambda: use_exported(tiny(distillation_weight=0.5), dataset)),
    ]
    for name, fields, words in (
        ("before", {"latent_space": {}}, "do not say of which encoder"),
        ("damaged", {"latent_space": {"encoder_mean": "none"}}, "manifest.json is damaged"),
        ("unknown", {"latent_space": {"colour": 1}}, "manifest.json is damaged"),
        ("words", {"latent_space": space | {"encoder_std": ["x"]}}, "manifest.json is damaged"),
        ("channels", {"latent_space": space | {"latent_channels": 5}}, "manifest.json is damaged"),
    ):
        copy = LatentDataset(changed(exported, tmp_path / name, **fields))
        refused.append((words, lambda copy=copy: use_exported(tiny(), copy)))
    hybrid = LatentDataset(export(make_hybrid_model(tmp_path / "onedva"), data, tmp_path / "one"))
    refused.append(("must be grids", lambda: use_exported(tiny(), hybrid)))
    image = LatentDataset(export(dataset.manifest.model, data / "image.png", tmp_path / "image"))
    refused.append(("no video of 5 frames", lambda: use_exported(tiny(), image)))
    for words, call in refused:
        with pytest.raises(ValueError, match=words):
            call()


def test_the_plan_of_exported_latents_has_no_clip_to_encode(exported):
    latents = LatentDataset(exported)
    recipe = use_exported(tiny(), latents)
    updates = list_updates(recipe, latents)
    assert {tuple(update.example["latents"].shape) for update in updates} == {
        (1, 2, 3, 4, 4),
        (1, 2, 1, 4, 4),
    }
    assert not any("clip" in update.example for update in updates)
    assert "no encoder runs" in assumptions(recipe, latents)


def test_the_plan_counts_the_encoder_unless_its_latents_were_exported(encoder, exported):
    recipe, embedder = plan_source(tiny(chunk_frames=17), str(encoder), None)
    assert recipe.model.latent_channels == 2 and "whose memory is not counted" in assumptions(
        recipe, None, True
    )
    updates = list_updates(recipe)
    clips = {update.frames: update.share * update.samples for update in updates}
    vae, expected = wan(), 0.0
    for frames, count in clips.items():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            vae.encode(torch.zeros(1, 3, frames, 32, 32))
        expected += count * counter.get_total_flops()
    assert encoder_tflop(embedder, updates) * 1e12 == pytest.approx(expected, rel=0.01)
    assert plan_source(tiny(), str(encoder), LatentDataset(exported))[1] is None
    assert plan_source(tiny(), None, None) == (tiny(), None)
