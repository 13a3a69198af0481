"""What benchmarks count: the paper's batches and tokens, memory as it is really taken."""

from pathlib import Path

import comparisons
import decoder_cost
import generation_cost
import loader
import pytest
import torch

from regen.data.batches import TrainingBatches
from regen.data.clips import ClipDataset
from regen.data.tasks import Stage
from regen.media.pixels import Size
from regen.pretrained.listing import available
from regen.recipes import GENERATORS, RECIPES


def test_operations_of_a_generator_are_those_of_its_network():
    cases = [[generation_cost.Case(Size(192, 320), n, k) for k in generation_cost.RATIOS] for n in (33, 132)]
    assert [[case.shape[1] for case in row] for row in cases] == [[14, 8, 4, 2], [54, 30, 16, 8]]
    case = generation_cost.Case(Size(64, 96), 33, 16)
    figures = generation_cost.counted(GENERATORS["toy-c2v"], case)
    model = generation_cost.generator_of(GENERATORS["toy-c2v"])
    tokens, width, depth = 4 * 4 * 6, model.config.width, model.config.depth
    assert (figures["tokens"], figures["parameters"]) == (tokens, model.num_parameters())
    assert figures["gflop_attention"] == pytest.approx(4 * tokens**2 * width * depth / 1e9)


def test_comparisons_name_what_exists_and_scale_its_schedule_with_the_updates():
    chosen = comparisons.COMPARISONS.values()
    assert {name for one in chosen for names in one.recipes.values() for name in names} <= RECIPES.keys()
    assert {name for one in chosen for name in one.present} <= {model.name for model in available()}
    usual = RECIPES["magvit2-small-4x-cpu"]
    steps, warmup = 10 * usual.loop.steps, 10 * usual.optimizer.warmup_steps
    start = 10 * usual.losses.adversarial.start
    options = ["--loop.steps", steps, "--optimizer.warmup-steps", warmup, "--losses.adversarial.start", start]
    assert comparisons.update_options("magvit2-small-4x-cpu", steps) == list(map(str, options))
    with pytest.raises(ValueError, match="--updates"):
        comparisons.update_options("toy", 0)


def test_table_1_climbs_the_ladder(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(comparisons, "regen", lambda *arguments: calls.append(arguments))
    comparisons.main("table-1", (tmp_path,), tmp_path, tmp_path)
    trained, starts = [], {}
    for command, recipe, *options in calls[:-1]:
        assert command == "train"
        if "--init.model" in options:
            starts[recipe] = Path(options[options.index("--init.model") + 1])
            assert starts[recipe].name in trained
        trained.append(recipe)
    assert len(trained) == 8 and calls[-1][0] == "evaluate"
    assert starts == {
        f"{kind}-small-{2 * k}x-cpu": tmp_path / f"{kind}-small-{k}x-cpu"
        for kind in ("regen", "magvit2")
        for k in (8, 16)
    }


def test_the_loader_and_plain_pyav_read_the_same_clips(tmp_path):
    files, stage = loader.copies(tmp_path)[:2], Stage(64, 96, video_batch_size=3, image_batch_size=1)
    loader.write_shards(files, tmp_path / "shards")
    sources = [
        TrainingBatches(ClipDataset(paths), 4, loader.TASKS, (stage,), (0.5, 1.0), 2, 0)
        for paths in (files, [tmp_path / "shards"])
    ]
    keys = [(0, 0, 1), (1, 0, 1)]
    excerpts = loader.excerpts_of(sources[0], keys)
    plain = torch.stack([loader.read_with_pyav(excerpt, exact=True) for excerpt in excerpts])
    for source in sources:
        assert torch.equal(torch.cat([source[key]["clip"] for key in keys]), plain)


@pytest.mark.integration
def test_the_baseline_at_32x_decodes_512_pixels_in_a_tenth_of_the_papers_memory():
    """The paper's table has "out of memory" there, on 80 GB."""
    setting = decoder_cost.Setting(Size(512, 512), 1, 1, 1, torch.device("cpu"), torch.bfloat16)
    figures = decoder_cost.counted("magvit2-32x", setting)
    weights = 2 * figures["parameters"] / 1e9
    assert figures["memory_gb"] == pytest.approx(7.66, rel=0.02)
    assert figures["memory_gb"] - weights == pytest.approx(6.71, rel=0.02)
