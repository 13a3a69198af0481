"""One-DVA: stage 1, stage 2 and post-training at each size."""

from dataclasses import replace

from regen.data.tasks import Stage, TaskConfig
from regen.embedders.one_dva import OneDVAConfig
from regen.losses.alignment import AlignmentConfig
from regen.losses.auxiliary import LossConfig
from regen.losses.one_dva import OneDVAObjective, PredictionConfig
from regen.losses.representation import RepresentationConfig
from regen.networks.length_rule import LengthMode, MotionLengthRule
from regen.recipes.preset import CACHED, PLAIN, Preset, documented
from regen.train.finetune import InitConfig
from regen.train.loop import LoopConfig
from regen.train.optimizer import OptimizerConfig
from regen.train.recipe import DataConfig, Recipe

STAGE1 = CACHED.replace("RUN", "STAGE1")
STAGE2 = CACHED + " --init.model STAGE1"


def small_cpu() -> Recipe[OneDVAConfig]:
    """One-DVA, stage 2, 45 minutes on one core; 29.94 dB at 256², 46.5× compression."""
    objective = OneDVAObjective(pure_noise_prob=0.3, t_min=0.5, latent_noise_std=0.05)
    model = OneDVAConfig(
        encoder_width=176, encoder_depth=3, encoder_heads=4, linear_skip=True,
        width=176, depth=5, heads=4, pixel_channels=3, num_queries=80, region_size=4,
        query_positions="rotary", timestep_conditioning="adaln_single", kl_weight=0.0,
        length_rule=MotionLengthRule(multiple=4, motion_range=(0.00004, 0.037)), objective=objective,
    )  # fmt: skip
    return Recipe(
        model=model,
        data=DataConfig(
            stages=(Stage(64, 64, video_batch_size=12, image_batch_size=48),),
            short_side=256,
            statistics_clips=1024,
        ),
        loop=LoopConfig(steps=3000, eval_every=400, save_every_minutes=4.0, ema_decay=0.998, num_workers=1),
        tasks=TaskConfig(image_share=0.1, warmup_fraction=1.0),
        losses=LossConfig(alignment=AlignmentConfig(weight=0.01)),
        optimizer=OptimizerConfig(5e-4, muon_learning_rate=1e-3, warmup_steps=100, decay_fraction=0.4),
        init=InitConfig(freeze=("linear",)),
    )


def small_stage1_cpu() -> Recipe[OneDVAConfig]:
    """Stage 1 of onedva-small-cpu, 24 minutes on one core: all 1D latents, half of the clips at t = 1."""
    recipe = small_cpu()
    objective = OneDVAObjective("full", pure_noise_prob=0.5, t_min=0.5, l1_weight=0.5, latent_noise_std=0.05)
    stages = (
        Stage(48, 64, video_batch_size=16, image_batch_size=64, until=0.15),
        Stage(64, 48, video_batch_size=16, image_batch_size=64, until=0.3),
        Stage(64, 64, video_batch_size=12, image_batch_size=48),
    )
    return replace(
        recipe,
        model=replace(recipe.model, objective=objective),
        data=replace(recipe.data, stages=stages, statistics_clips=64),
        loop=replace(recipe.loop, steps=1400),
        losses=LossConfig(),
        optimizer=OptimizerConfig(1e-3, muon_learning_rate=2e-3, warmup_steps=100),
        init=InitConfig(freeze=("linear",), pca_clips=700),
    )


def small_post_cpu() -> Recipe[OneDVAConfig]:
    """Post-training of onedva-small-cpu: the decoder learns from predicted latents."""
    recipe = small_cpu()
    return replace(
        recipe,
        loop=replace(recipe.loop, steps=400, eval_every=200),
        losses=LossConfig(prediction=PredictionConfig(share=0.5)),
        optimizer=OptimizerConfig(1e-4, warmup_steps=50, decay_fraction=0.4),
        init=InitConfig(freeze=("encoder", "linear")),
    )


def toy() -> Recipe[OneDVAConfig]:
    """One-DVA in a minute or two on a CPU, to see it run; its pictures are blurred."""
    recipe = small_cpu()
    model = replace(
        recipe.model, encoder_width=96, encoder_depth=2, encoder_heads=3, width=96, depth=3, heads=3,
        latent_channels=16, num_queries=20, region_size=2, query_positions="anchored",
    )  # fmt: skip
    return replace(
        recipe,
        model=model,
        data=replace(
            recipe.data, stages=(Stage(32, 32, video_batch_size=8, image_batch_size=16),), statistics_clips=64
        ),
        loop=replace(recipe.loop, steps=200, eval_every=100, num_workers=0),
        init=InitConfig(freeze=("linear",), pca_clips=64),
    )


def on_gpu(recipe: Recipe[OneDVAConfig], steps: int, stages: tuple[Stage, ...]) -> Recipe[OneDVAConfig]:
    """The model of the CPU with regions of 128² pixels in place of 64²."""
    return replace(
        recipe,
        model=replace(recipe.model, num_queries=320, region_size=8),
        data=replace(recipe.data, stages=stages),
        loop=replace(recipe.loop, steps=steps, num_workers=14),
    )


def small_stage1() -> Recipe[OneDVAConfig]:
    """Stage 1 of onedva-small, for about 12 minutes of one H200. Not run yet."""
    stages = (
        Stage(96, 128, video_batch_size=96, image_batch_size=384, until=0.15),
        Stage(128, 96, video_batch_size=96, image_batch_size=384, until=0.3),
        Stage(128, 128, video_batch_size=72, image_batch_size=288),
    )
    return on_gpu(small_stage1_cpu(), 4000, stages)


def base(width: int = 768, depth: int = 12, heads: int = 12) -> Recipe[OneDVAConfig]:
    """The paper's stage 2, 17 frames at 24 per second, with an encoder of this size."""
    sizes = (256, 256), (256, 456)
    stage = Stage(256, 456, video_batch_size=256, image_batch_size=1024, buckets=sizes)
    return Recipe(
        model=OneDVAConfig(encoder_width=width, encoder_depth=depth, encoder_heads=heads),
        data=DataConfig(stages=(stage,), scale=None, frame_rate=24.0),
        loop=LoopConfig(steps=200_000, activation_checkpointing=True, num_workers=8, fsdp=True),
        tasks=TaskConfig(warmup_fraction=1.0),
        optimizer=OptimizerConfig(5e-5),
        losses=LossConfig(
            alignment=AlignmentConfig(weight=0.1), representation=RepresentationConfig(weight=0.5)
        ),
    )


def stage1(recipe: Recipe[OneDVAConfig], lengths: LengthMode = "full") -> Recipe[OneDVAConfig]:
    """The paper's stage 1: half of the clips at noise level 1, with L1 and LPIPS.

    With all 1D latents, or ("none") with structural latents only.
    """
    objective = OneDVAObjective(lengths, pure_noise_prob=0.5, l1_weight=1.0)
    return replace(
        recipe,
        model=replace(recipe.model, objective=objective),
        optimizer=OptimizerConfig(1e-4),
        losses=LossConfig(perceptual_weight=0.1),
    )


def post(recipe: Recipe[OneDVAConfig]) -> Recipe[OneDVAConfig]:
    """The paper's post-training: the decoder alone, half of the clips by predicted latents."""
    return replace(
        recipe,
        loop=replace(recipe.loop, steps=20_000),
        optimizer=OptimizerConfig(2e-5),
        losses=LossConfig(prediction=PredictionConfig(share=0.5)),
        init=InitConfig(freeze=("encoder",)),
    )


def paper(name: str, recipe: Recipe[OneDVAConfig], summary: str) -> dict[str, Preset[Recipe]]:
    """The three trainings of a size of the paper, with both readings of the first."""
    train = "regen train {name} --data SHARDS --out"
    return {
        f"{name}-stage1": Preset(
            stage1(recipe),
            f"Stage 1 of {name}: all 1D latents, half of the clips at t = 1, L1 and LPIPS. Not run here.",
            f"{train} STAGE1 --losses.perceptual-file FILE",
            gpus=32,
        ),
        f"{name}-stage1-structural": Preset(
            stage1(recipe, "none"),
            f"Stage 1 of {name} in the other reading: structural latents only, no queries. Not run here.",
            f"{train} STAGE1 --losses.perceptual-file FILE",
            gpus=32,
        ),
        name: Preset(
            recipe,
            f"{summary}, stage 2. Not run here.",
            f"{train} RUN --init.model STAGE1 --losses.representation.model SIGLIP",
            gpus=32,
        ),
        f"{name}-post": Preset(
            post(recipe),
            f"Post-training of {name} on predicted latents (--losses.prediction.generator). Not run here.",
            f"{train} RUN --init.model STAGE2",
            gpus=32,
        ),
    }


PRESETS: dict[str, Preset[Recipe]] = {
    "toy-onedva": documented(toy, PLAIN),
    "onedva-small-stage1-cpu": documented(small_stage1_cpu, STAGE1),
    "onedva-small-cpu": documented(small_cpu, STAGE2),
    "onedva-small-post-cpu": documented(small_post_cpu, CACHED + " --init.model onedva-small"),
    "onedva-small-stage1": documented(small_stage1, STAGE1),
    "onedva-small": Preset(
        on_gpu(small_cpu(), 6000, (Stage(128, 128, video_batch_size=72, image_batch_size=288),)),
        "One-DVA for about 12 minutes of one H200, stage 2: 128² crops of 17 frames. Not run yet.",
        STAGE2,
    ),
    **paper("onedva-base", base(), "One-DVA at its base size, 17 frames at 24 per second"),
    **paper("onedva-large", base(1024, 24, 16), "onedva-base with an encoder of 24 blocks and width 1024"),
}
