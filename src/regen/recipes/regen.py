"""REGEN: toys, small models for a CPU or one GPU, the paper's models."""

from dataclasses import replace
from typing import Any

from regen.data.tasks import Stage, TaskConfig
from regen.embedders.regen import RegenConfig
from regen.recipes.preset import CACHED, PLAIN, Preset, documented
from regen.train.finetune import InitConfig
from regen.train.loop import LoopConfig
from regen.train.optimizer import OptimizerConfig
from regen.train.recipe import DataConfig, Recipe

ON_NODES = "torchrun --nnodes 4 --nproc-per-node 8 ... -m regen train {name} --data SHARDS --out RUN"

# 64² crops on the CPU. Ratio: clips in a batch, updates, size and time.
SMALL_CPU = {
    4: (8, 5000, "12 M parameters, two hours of one core"),
    8: (5, 7000, "6 M parameters, two hours of one core"),
    16: (3, 8000, "6 M parameters, two hours of one core"),
    32: (2, 8000, "6 M parameters, two hours of one core"),
}
MARGIN = 8  # pixels around the crops of small models
DETAIL_CHANNELS = 12
DECODED_FRAMES = 5  # of a chunk, above ratio 4

# 128² crops on one H200, about 12 minutes at a sixth of its peak or less. Ratio: clips in a batch, updates.
SMALL_GPU = {4: (128, 5000), 8: (72, 8000), 16: (36, 10_000), 32: (18, 12_000)}

# The paper's models on 32 GPUs. Ratio: clips of 192 x 320 on each GPU.
PAPER = {4: 6, 8: 4, 16: 3, 32: 1}
IMAGE_BUCKETS = ((256, 256), (256, 320), (320, 256), (256, 384), (384, 256))

# What the paper varies in the model, by the end of the name.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "in-context": ("in-context conditioning", {"conditioning": "in_context", "attention_window": None}),
    "16ch": ("16 latent channels in place of 8", {"latent_channels": 16}),
}


def small(ratio: int, clips: int, side: int, model: RegenConfig) -> Recipe[RegenConfig]:
    """Crops of this side. Above ratio 4 the models are small enough for `checkpoints/`."""
    if ratio > 4:
        model = replace(model, encoder_widths=(32, 48, 64, 64, 64), width=192, depth=7, heads=3)
        model = replace(model, timestep_conditioning="adaln_single")
    model = replace(
        model, temporal_compression_ratio=ratio, encoder_blocks=1, encoder_patch_size=4, linear_skip=True,
        attention_window=8, pure_noise_prob=0.3, latent_noise_std=0.05,
    )  # fmt: skip
    stage = Stage(side, side, video_batch_size=clips, image_batch_size=4 * clips)
    return Recipe(
        model=model,
        data=DataConfig(stages=(stage,), short_side=256, statistics_clips=4096),
        loop=LoopConfig(steps=5000, ema_decay=0.998, num_workers=14),
        optimizer=OptimizerConfig(1e-3, muon_learning_rate=2e-3, warmup_steps=100, decay_fraction=0.3),
    )


def small_cpu(ratio: int, clips: int, steps: int) -> Recipe[RegenConfig]:
    """64² crops for two CPU cores."""
    model = RegenConfig(encoder_widths=(48, 64, 96, 128), width=256, depth=6, heads=4)
    recipe = small(ratio, clips, 64, model)
    return replace(
        recipe,
        data=replace(recipe.data, statistics_clips=1024),
        loop=LoopConfig(steps=steps, eval_every=400, save_every_minutes=4.0, ema_decay=0.998, num_workers=1),
        tasks=TaskConfig(image_share=0.1, warmup_fraction=0.3, share_start=0.02, share_end=0.1),
    )


def small_gpu(ratio: int, clips: int, steps: int) -> Recipe[RegenConfig]:
    """128² crops for one GPU."""
    model = RegenConfig(
        encoder_widths=(64, 64, 128, 128), width=320, depth=8, heads=5, timestep_conditioning="adaln_single"
    )
    recipe = small(ratio, clips, 128, model)
    return replace(recipe, loop=replace(recipe.loop, steps=steps))


def paper(ratio: int, clips: int) -> Recipe[RegenConfig]:
    """Batches for the paper's 32 GPUs, each with `clips` clips of 192 x 320 or 28 images with 256 lines.

    Both are whole pictures, images of several aspect ratios. With fewer GPUs: more gradient accumulation,
    --loop.gradient-accumulation-steps.
    """
    widths = (128, 256, 512, 768) if ratio == 4 else (128, 256, 512, 768, 768)
    stage = Stage(
        192, 320, video_batch_size=32 * clips, image_batch_size=32 * 28, image_buckets=IMAGE_BUCKETS
    )
    return Recipe(
        model=RegenConfig(ratio, encoder_widths=widths),
        data=DataConfig(stages=(stage,), scale=None),
        loop=LoopConfig(steps=100_000, activation_checkpointing=True, num_workers=8, fsdp=True),
    )


def on_linear_path(recipe: Recipe, ratio: int) -> Recipe:
    """The recipe beside the linear embedder of its ratio, on crops with a margin (docs/method.md, 28).

    The linear path starts at its optimum, where the learning rates of the networks would shake it.
    """
    changes = {"linear_skip": "overlapping", "detail_channels": DETAIL_CHANNELS}
    stages = tuple(replace(stage, margin=MARGIN) for stage in recipe.data.stages)
    return replace(
        recipe,
        model=replace(recipe.model, **changes),
        data=replace(recipe.data, stages=stages),
        optimizer=replace(recipe.optimizer, linear_learning_rate=1e-4),
        init=InitConfig(linear=f"linear-{ratio}x"),
    )


def small_on_linear_path(recipe: Recipe[RegenConfig]) -> Recipe[RegenConfig]:
    """The recipe of a small model with its linear path; above ratio 4 a few frames of a chunk are decoded.

    Most of the batch learns what one step shows, where these models have to be better than the linear one.
    """
    ratio = recipe.model.temporal_compression_ratio
    model = replace(recipe.model, pure_noise_prob=0.7, zero_noise_prob=0.8)
    if ratio == 32:  # the linear maps of 33 frames take the room of a block in 12 MB
        model = replace(model, depth=model.depth - 1)
    tasks = TaskConfig(
        image_share=0.1, warmup_fraction=0.0, share_start=0.1, share_end=0.1,
        decoded_frames=None if ratio == 4 else DECODED_FRAMES,
    )  # fmt: skip
    return on_linear_path(replace(recipe, model=model, tasks=tasks), ratio)


def toy() -> Recipe[RegenConfig]:
    """The whole method in a minute or two on a CPU, to see it run; its pictures are blurred."""
    recipe = small_cpu(4, clips=8, steps=200)
    model = replace(recipe.model, encoder_widths=(32, 32, 64, 64), width=96, depth=3, heads=3, siren_width=64)
    return replace(
        recipe,
        model=model,
        data=replace(
            recipe.data, stages=(Stage(32, 32, video_batch_size=8, image_batch_size=16),), statistics_clips=64
        ),
        loop=replace(recipe.loop, eval_every=100, num_workers=0),
    )


def shapes() -> Recipe[RegenConfig]:
    """Moving shapes with much inter- and extrapolation: both can be learned on a CPU."""
    recipe = small_cpu(4, clips=6, steps=2200)
    model = replace(
        recipe.model, encoder_widths=(32, 48, 64, 96), width=192, depth=5, heads=3, siren_width=128
    )
    return replace(
        recipe,
        model=model,
        data=DataConfig(
            stages=(Stage(64, 64, video_batch_size=6, image_batch_size=24),),
            frame_rate=12.5,
            statistics_clips=512,
        ),
        tasks=TaskConfig(image_share=0.05, warmup_fraction=0.0, share_start=0.3, share_end=0.3),
    )


def on_shape_world(recipe: Recipe, clips: int, steps: int, decoded: int | None = None) -> Recipe:
    """64² crops at the scales at which the world is generated; reconstruction alone."""
    return replace(
        recipe,
        data=DataConfig(
            (replace(recipe.data.stages[0], video_batch_size=clips, image_batch_size=32),),
            scale=(0.45, 1.0),
            statistics_clips=512,
        ),
        tasks=TaskConfig(image_share=0.15, warmup_fraction=1.0, decoded_frames=decoded),
        loop=replace(recipe.loop, steps=steps, eval_every=200),
        optimizer=replace(recipe.optimizer, decay_fraction=0.4),
    )


def world_cpu() -> Recipe[RegenConfig]:
    """REGEN at 32× on the world of moving shapes, from regen-small-8x, 38 minutes on one core.

    The stored world-32x was trained before its start model stood on a linear path (its card).
    """
    recipe = small_on_linear_path(small_cpu(32, clips=2, steps=400))
    recipe = on_shape_world(recipe, clips=8, steps=2400, decoded=DECODED_FRAMES)
    rates = replace(recipe.optimizer, learning_rate=4e-4, muon_learning_rate=1e-3, decay_fraction=0.5)
    return replace(recipe, optimizer=rates)


def world_gpu() -> Recipe[RegenConfig]:
    """world-32x-cpu with crops of 96 x 160, for about 12 minutes of one H200. Not run yet."""
    recipe = world_cpu()
    return replace(
        recipe,
        data=replace(
            recipe.data, stages=(Stage(96, 160, video_batch_size=32, image_batch_size=256, margin=MARGIN),)
        ),
        tasks=replace(recipe.tasks, decoded_frames=12),
        loop=replace(recipe.loop, steps=5000, num_workers=14),
    )


def variants(name: str, recipe: Recipe, command: str = CACHED, gpus: int = 1) -> dict[str, Preset[Recipe]]:
    """The recipe with each change of VARIANTS; other channels need a linear embedder of their own."""
    presets = {}
    for end, (what, change) in VARIANTS.items():
        init = recipe.init
        if init.linear is not None and "latent_channels" in change:
            init = replace(init, linear=f"{init.linear}-{end}")
        changed = replace(recipe, model=replace(recipe.model, **change), init=init)
        presets[f"{name}-{end}"] = Preset(changed, f"{name} with {what}.", command, gpus)
    return presets


PRESETS: dict[str, Preset[Recipe]] = {
    "toy": documented(toy, PLAIN),
    **variants("toy", toy(), PLAIN),
    "shapes-4x-cpu": documented(
        shapes,
        "python benchmarks/shapes.py --out SHAPES\n\nregen train {name} --data SHAPES --out RUN",
    ),
}
for ratio, (clips, steps, cost) in SMALL_CPU.items():
    summary = f"REGEN at {ratio}× beside linear-{ratio}x, {cost}."
    recipe = small_on_linear_path(small_cpu(ratio, clips, steps))
    PRESETS[f"regen-small-{ratio}x-cpu"] = Preset(recipe, summary)
for ratio, (clips, steps) in SMALL_GPU.items():
    size = f"{16 if ratio == 4 else 6} M parameters, 128² crops, about 12 minutes of one H200"
    summary = f"REGEN at {ratio}× beside linear-{ratio}x, {size}. Not run yet."
    PRESETS[f"regen-small-{ratio}x"] = Preset(small_on_linear_path(small_gpu(ratio, clips, steps)), summary)
PRESETS |= variants("regen-small-4x", small_on_linear_path(small_gpu(4, *SMALL_GPU[4])))
for ratio, clips in PAPER.items():
    summary = f"The paper's model and training at ratio {ratio}, for 32 GPUs. Not run here."
    PRESETS[f"regen-{ratio}x"] = Preset(paper(ratio, clips), summary, ON_NODES, gpus=32)
PRESETS |= variants("regen-4x", paper(4, PAPER[4]), PLAIN, gpus=32)
PRESETS |= {
    "world-32x-cpu": documented(
        world_cpu,
        "python benchmarks/world.py --out WORLD --videos 480 --frames 66 --size 192 320 --seed 100\n\n"
        "regen train {name} --data WORLD --out RUN --init.model regen-small-8x",
    ),
    "world-32x": documented(
        world_gpu, "regen train {name} --data WORLD --out RUN --init.model regen-small-8x"
    ),
}
