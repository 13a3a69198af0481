"""What benchmarks count: the paper's batches and tokens, memory as it is really taken."""

from dataclasses import asdict, replace

import comparisons
import decoder_cost
import generation_cost
import loader
import pytest
import scale
import torch
import training_memory
from torch.profiler import ProfilerActivity, profile

from regen.data.clips import ClipDataset
from regen.data.tasks import Stage, TrainingBatches
from regen.embedders.regen import AutoencoderRegen
from regen.media.pixels import Size
from regen.pretrained.models import available
from regen.recipes import GENERATORS, RECIPES
from regen.runtime import one_thread

TOY = RECIPES["toy"]


@pytest.mark.parametrize(("ratio", "clips"), [(4, 6), (8, 4), (16, 3), (32, 1)])
def test_a_gpus_part_of_a_batch_is_the_papers(ratio, clips, monkeypatch):
    monkeypatch.setattr(scale, "DRAWS", 100)
    shares = scale.drawn(RECIPES[f"regen-{ratio}x"], ratio)
    parts = [work.part(32) for work in shares]
    assert {part.samples for part in parts if part.inputs > 1} == {clips}
    assert {part.samples for part in parts if part.inputs == 1} == {28}
    assert sum(shares.values()) == pytest.approx(1)
    assert sum(share for work, share in shares.items() if work.inputs == 1) == pytest.approx(0.2, abs=0.08)


@pytest.mark.skipif(
    torch.cpu._is_avx512_supported() and "AVX512" not in torch.backends.cpu.get_cpu_capability(),
    reason="torch's attention refuses bf16 where its kernels use less than the processor has",
)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
def test_a_pass_takes_the_memory_that_is_counted(checkpointing):
    """Besides what kernels take for themselves, which on some processors grows with the threads."""
    config = replace(TOY.model, depth=2, attention_window=None)
    work = training_memory.Work(2, 5, 5, 64, 64)
    with training_memory.norms_in_fp32():
        model = AutoencoderRegen(**asdict(config)).train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(training_memory.drop_gradient)
        generators = [torch.Generator() for _ in range(work.samples)]
        with one_thread(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            batch = {name: torch.zeros(shape) for name, shape in work.shapes().items()}
            with torch.autocast("cpu", torch.bfloat16):
                loss, _ = model.loss(batch, generators)
            loss.backward()
    changes = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    counted = training_memory.pass_bytes(config, work, checkpointing, torch.float32)
    assert counted == pytest.approx(peak, rel=0.15)


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
    assert figures["memory_gb"] == pytest.approx(7.85, rel=0.02)
    assert figures["memory_gb"] - weights == pytest.approx(6.9, rel=0.02)
