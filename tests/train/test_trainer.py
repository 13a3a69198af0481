"""A recipe from a folder of videos to a model that loads, with damaged files among the data."""

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from shapes import write_dataset
from tiny_shards import make_shards
from torch import Tensor, nn

from regen.data.clips import ClipDataset
from regen.data.tasks import Stage, TaskConfig
from regen.embedders.regen import AutoencoderRegen
from regen.losses.adversarial import AdversarialConfig
from regen.losses.one_dva import PredictionConfig
from regen.losses.representation import RepresentationConfig
from regen.recipes import RECIPES
from regen.train import trainer
from regen.train.checkpoint import list_checkpoints, load_ema
from regen.train.distributed import DistributedContext
from regen.train.finetune import InitConfig, InitReport
from regen.train.latent_statistics import measure_latent_statistics
from regen.train.loop import LoopConfig
from regen.train.optimizer import OptimizerConfig
from regen.train.preview import save_preview
from regen.train.recipe import DataConfig, Recipe
from regen.train.trainer import report, run_recipe

CPU = DistributedContext(torch.device("cpu"))


def tiny_recipe(steps: int = 2, **changes) -> Recipe:
    recipe = RECIPES["toy"]
    stage = Stage(16, 16, video_batch_size=2, image_batch_size=2)
    data = replace(recipe.data, stages=(stage,), num_val_videos=1, num_val_clips=1, statistics_clips=4)
    model = replace(recipe.model, width=24, depth=1, heads=3, encoder_widths=(8, 8, 8, 8), siren_width=8)
    loop = replace(recipe.loop, steps=steps, eval_every=1)
    return replace(recipe, **{"data": data, "model": model, "loop": loop} | changes)


@pytest.fixture(scope="module")
def finished(videos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    assert run_recipe(tiny_recipe(), [videos], out, CPU) == out / "model"
    return out


@pytest.mark.parametrize("strict", [False, True])
def test_strict_training_starts_with_no_bad_file(videos, tmp_path, capsys, strict):
    data = shutil.copytree(videos, tmp_path / "data")
    (data / "bad.mp4").write_text("no video")
    if strict:
        with pytest.raises(ValueError, match="1 file skipped, and --strict allows none"):
            run_recipe(tiny_recipe(), [data], tmp_path / "run", CPU, strict=True)
        assert not (tmp_path / "run" / "model").exists()
    else:
        report(InitReport(InitConfig()), ClipDataset([data]), strict)
    assert "bad.mp4" in capsys.readouterr().err


def test_a_recipe_ends_with_a_card(finished):
    card = ModelCard.load(finished / "model" / "README.md")
    assert card.data.library_name == "regen" and card.data.eval_results[0].metric_type == "psnr"
    assert "2 updates" in card.text


@pytest.mark.parametrize("files", [1, 2])
def test_few_videos_are_all_trained_on_with_a_warning(files, tmp_path, capsys):
    write_dataset(tmp_path / "clips", videos=files, frames=12, height=32, width=40, seed=0)
    recipe = tiny_recipe()
    recipe = replace(recipe, data=replace(recipe.data, num_val_videos=2))
    run_recipe(recipe, [tmp_path / "clips"], tmp_path / "run", CPU)
    assert "none is held out" in capsys.readouterr().err
    assert (tmp_path / "run" / "model").is_dir()


def test_a_recipe_ends_with_a_normalised_model(finished):
    model = AutoencoderRegen.from_pretrained(finished / "model")
    assert model.config.latents_std != [[1.0] * 8] * 2
    assert torch.equal(model.latents_mean, torch.tensor(model.config.latents_mean))
    assert model.preview(torch.zeros(1, 8, 2, 4, 4)).shape == (1, 3, model.chunk_frames, 4, 4)
    rows = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert any("evaluation/psnr" in row for row in rows)
    assert len(list((finished / "previews").glob("step-*.png"))) == 2


def test_a_finished_run_is_left_as_it_is_and_a_lost_model_is_made_again(videos, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    stored = (run / "model" / "config.json").stat().st_mtime_ns
    assert run_recipe(tiny_recipe(), [videos], run, CPU) == run / "model"
    assert (run / "model" / "config.json").stat().st_mtime_ns == stored
    first = {file.name: file.read_bytes() for file in (run / "model").iterdir()}
    shutil.rmtree(run / "model")
    run_recipe(tiny_recipe(), [videos], run, CPU)
    assert {file.name: file.read_bytes() for file in (run / "model").iterdir()} == first
    with pytest.raises(ValueError, match="files was 3 and is now 2"):
        run_recipe(tiny_recipe(), sorted(videos.glob("*.mp4"))[:2], run, CPU)


def test_unusable_files_are_named_and_skipped(videos, tmp_path, capsys):
    folder = tmp_path / "videos"
    shutil.copytree(videos, folder)
    (folder / "broken.mp4").write_text("no video")
    data = replace(tiny_recipe().data, num_val_videos=0)
    run_recipe(tiny_recipe(steps=1, data=data), [folder], tmp_path / "run", CPU)
    err = capsys.readouterr().err
    assert "1 file skipped, 3 remain" in err and "broken.mp4" in err


def test_videos_that_are_too_short_and_empty_folders_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="give a folder"):
        run_recipe(tiny_recipe(), [tmp_path / "empty"], tmp_path / "run", CPU)
    write_dataset(tmp_path / "short", videos=3, frames=6, height=16, width=16, seed=0)
    with pytest.raises(ValueError, match="need 9 frames"):
        run_recipe(tiny_recipe(), [tmp_path / "short"], tmp_path / "run", CPU)
    only_reconstruct = tiny_recipe(steps=1, tasks=TaskConfig(warmup_fraction=1.0))
    run_recipe(only_reconstruct, [tmp_path / "short"], tmp_path / "run", CPU)


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        *((LoopConfig, name, 0) for name in ("steps", "eval_every", "log_every", "keep_last")),
        (LoopConfig, "gradient_accumulation_steps", 0),
        (LoopConfig, "num_workers", -1),
        (LoopConfig, "mixed_precision", "fp16"),
        (OptimizerConfig, "decay_fraction", 1.5),
        (OptimizerConfig, "warmup_steps", -1),
        (DataConfig, "num_val_clips", 0),
        (DataConfig, "statistics_clips", 0),
        (DataConfig, "num_val_videos", -1),
        (AdversarialConfig, "r1_every", 0),
        (RepresentationConfig, "weight", -1.0),
        (RepresentationConfig, "width", 0),
        (RepresentationConfig, "learning_rate", 0.0),
        *((PredictionConfig, "share", share) for share in (-0.1, 1.1)),
        *((PredictionConfig, "levels", levels) for levels in ((0.0, 0.5), (0.5, 0.1), (0.5, 1.1))),
    ],
)
def test_impossible_settings_are_refused(config, field, value):
    required = {LoopConfig: {"steps": 1}, DataConfig: {"stages": ()}}.get(config, {})
    with pytest.raises(ValueError, match=rf"\b{field} must"):
        config(**required | {field: value})


def test_a_run_starts_from_one_that_is_not_finished(videos, finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "first", ignore=shutil.ignore_patterns("model"))
    average = load_ema(list_checkpoints(tmp_path / "first" / "checkpoints")[-1])
    recipe = tiny_recipe(init=InitConfig(str(tmp_path / "first"), freeze=("encoder",)))
    folder = run_recipe(recipe, [videos], tmp_path / "second", CPU)
    err = capsys.readouterr().err
    assert "tensors loaded, " in err and "frozen: the encoder" in err
    model = AutoencoderRegen.from_pretrained(folder)
    for name, weight in model.encoder.state_dict().items():
        assert torch.equal(weight, average[f"encoder.{name}"])
    assert model.config.latents_std is not None, "of an unfinished run they have to be measured"
    assert not torch.equal(model.decoder.embed.weight, average["decoder.embed.weight"])


def test_with_the_encoder_of_a_finished_run_its_statistics_stay(videos, finished, tmp_path, monkeypatch):
    first = AutoencoderRegen.from_pretrained(finished / "model")
    recipe = tiny_recipe(steps=1, init=InitConfig(str(finished), freeze=("encoder",)))
    monkeypatch.setattr(trainer, "measure_latent_statistics", None)
    second = AutoencoderRegen.from_pretrained(run_recipe(recipe, [videos], tmp_path / "second", CPU))
    assert torch.equal(first.latents_mean, second.latents_mean)
    assert torch.equal(first.latents_std, second.latents_std)


def test_originals_stand_above_their_reconstructions(tmp_path):
    original = torch.zeros(6, 3, 5, 8, 16)
    original[1, :, 2] = 1
    reconstruction = torch.full_like(original, -4.0, dtype=torch.bfloat16)
    save_preview(tmp_path / "previews" / "a.png", original, reconstruction)
    picture = np.asarray(Image.open(tmp_path / "previews" / "a.png"))
    assert picture.shape == (2 * 4 * 8, 5 * 16, 3)
    bands = picture.reshape(8, 8, 5, 16, 3)[:4, 0, :, 0, 0]
    assert bands.tolist() == [[128] * 5, [0] * 5, [128, 128, 255, 128, 128], [0] * 5]


class FirstAndLastFrame(nn.Module):
    """Latents are the first and the last frame, the last one scaled; channel 2 never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.clips_seen = 0

    def encode(self, video: Tensor) -> SimpleNamespace:
        self.clips_seen += len(video)
        latents = video.clone() if video.shape[2] == 1 else video[:, :, [0, -1]]
        latents[:, :, 1:] *= 5
        latents[:, 2] = 0.25
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))


@pytest.mark.parametrize(("count", "seen"), [(1, 1), (9, 5), (10, 5)])
def test_statistics_are_those_of_the_first_clips_and_images_between(count, seen):
    """Every second batch holds images, which count for the first latent frame only."""
    batches = [torch.rand(4, 3, 1 if index % 2 else 3, 8, 8) for index in range(9)]
    model = FirstAndLastFrame()
    items = ({"clip": clip, "batch_size": torch.tensor(len(clip))} for clip in batches)
    mean, std = measure_latent_statistics(model, items, count, CPU, torch.float32)
    assert model.clips_seen == 4 * seen
    content = torch.cat([clip[:, :, 0] for clip in batches[:seen]])
    motion = torch.cat([5 * clip[:, :, -1] for clip in batches[:seen:2]])
    for kind, latent in enumerate((content, motion)):
        torch.testing.assert_close(mean[kind, :2], latent[:, :2].mean((0, 2, 3)))
        torch.testing.assert_close(std[kind, :2], latent[:, :2].std((0, 2, 3), correction=0))
    assert mean[:, 2].tolist() == [0.25] * 2
    assert std[:, 2].tolist() == [1.0] * 2, "a channel that never changes has no scale"


def rows_of(out: Path) -> list[dict[str, float]]:
    path = out / "log.jsonl"
    complete = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in complete]


def harm(shards: Path, out: Path, steps: int) -> None:
    """Once the training runs: a shard vanishes, one process that loads is killed, then another hangs."""
    for after, number in ((2, signal.SIGKILL), (steps // 2, signal.SIGSTOP)):
        while len(rows_of(out)) < after:
            time.sleep(0.01)
        (shards / "00001.tar").unlink(missing_ok=True)
        for process in multiprocessing.active_children()[:1]:
            os.kill(process.pid or 0, number)


@pytest.mark.integration
def test_damaged_vanished_killed_and_hanging_the_training_ends_with_a_model(tmp_path, capfd):
    """From two shards of three videos, of which one is cut off behind its header."""
    write_dataset(tmp_path / "clips", videos=6, frames=12, height=32, width=40, seed=0)
    files = sorted((tmp_path / "clips").iterdir())
    shards = make_shards(tmp_path / "shards", files, per_shard=3)
    content, tar = files[0].read_bytes(), shards / "00000.tar"
    cut = content[: len(content) // 3].ljust(len(content), b"\0")
    tar.write_bytes(tar.read_bytes().replace(content, cut))
    steps, out, recipe = 60, tmp_path / "run", tiny_recipe(60)
    loop = replace(recipe.loop, num_workers=2, log_every=1, eval_every=steps, loader_timeout=5.0)
    recipe = replace(recipe, data=replace(recipe.data, num_val_videos=0), loop=loop)
    thread = threading.Thread(target=harm, args=(shards, out, steps))
    thread.start()
    folder = run_recipe(recipe, data=[str(shards)], out=out, context=CPU)
    thread.join()
    last = [row for row in rows_of(out) if "loss" in row][-1]
    assert (last["step"], last["loader_restarts"]) == (steps, 2)
    assert last["damaged_samples"] > 0 and last["gone_samples"] > 0
    err = capfd.readouterr().err
    died, hung = "a data loading process died", "no batch arrived within 5 seconds"
    assert all(text in err for text in ("shapes_0000.mp4", "check the shard", died, hung))
    assert torch.isfinite(AutoencoderRegen.from_pretrained(folder).latents_std).all()
