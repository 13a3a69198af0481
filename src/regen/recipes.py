"""Named full configurations: `regen train NAME --data DIR --out RUN`, each field open to a dotted override.

The docstring of each gives the command, the hardware, the time, and the result where there is one.
"""

from collections.abc import Callable
from dataclasses import replace

from regen.data.tasks import Stage, TaskConfig
from regen.embedders.magvit2 import Magvit2Config
from regen.embedders.one_dva import OneDVAConfig
from regen.embedders.regen import RegenConfig
from regen.generate.generator import GeneratorConfig
from regen.generate.latent_batches import LatentStage
from regen.generate.training import GeneratorRecipe, LatentDataConfig
from regen.losses.adversarial import AdversarialConfig
from regen.losses.one_dva import OneDVAObjective
from regen.losses.post_training import PredictionConfig
from regen.losses.representation import RepresentationConfig
from regen.train.auxiliary_losses import LossConfig
from regen.train.finetune import StartConfig
from regen.train.loop import LoopConfig
from regen.train.optimizer import OptimizerConfig
from regen.train.trainer import DataConfig, Recipe


def toy() -> Recipe:
    """The whole method in a minute or two on a CPU, to see it run; its pictures are blurred.

    regen train toy --data DIR --out RUN
    """
    recipe = regen_small_4x_cpu()
    return replace(
        recipe,
        model=replace(
            recipe.model, encoder_widths=(32, 32, 64, 64), width=96, depth=3, heads=3, siren_width=64
        ),
        data=replace(recipe.data, stages=(Stage(32, 32, clips=8, images=16),), statistics_clips=64),
        loop=replace(recipe.loop, steps=200, eval_every=100, workers=0),
    )


def toy_in_context() -> Recipe:
    """The toy with latents as further tokens and fixed positions (spec A14).

    regen train toy-in-context --data DIR --out RUN
    """
    recipe = toy()
    return replace(recipe, model=replace(recipe.model, conditioning="in_context", attention_window=None))


def toy_16ch() -> Recipe:
    """The toy with 16 latent channels in place of 8.

    regen train toy-16ch --data DIR --out RUN
    """
    recipe = toy()
    return replace(recipe, model=replace(recipe.model, latent_channels=16))


def toy_magvit2() -> Recipe:
    """The baseline and its discriminator in a minute or two on a CPU, to see it run; with blurred pictures.

    regen train toy-magvit2 --data DIR --out RUN
    """
    recipe = magvit2_small_4x_cpu()
    losses = AdversarialConfig(weight=0.02, start=140, width=8, multipliers=(2, 4))
    return replace(
        recipe,
        model=replace(recipe.model, encoder_widths=(32, 32, 64, 64), decoder_widths=(32, 32, 32, 32)),
        data=replace(recipe.data, stages=(Stage(32, 32, clips=3, images=16),), statistics_clips=64),
        loop=replace(recipe.loop, steps=200, eval_every=100, workers=0),
        losses=LossConfig(losses),
    )


def toy_magvit2_wide() -> Recipe:
    """The toy baseline with a decoder twice as wide.

    regen train toy-magvit2-wide --data DIR --out RUN
    """
    recipe = toy_magvit2()
    return replace(recipe, model=replace(recipe.model, decoder_widths=(64, 64, 64, 64)))


def shapes_4x_cpu() -> Recipe:
    """Moving shapes with much inter- and extrapolation: a small world in which both can be learned on a CPU.

    python benchmarks/shapes.py --out SHAPES
    regen train shapes-4x-cpu --data SHAPES --out RUN
    """
    recipe = regen_small_4x_cpu()
    return replace(
        recipe,
        model=replace(
            recipe.model, encoder_widths=(32, 48, 64, 96), width=192, depth=5, heads=3, siren_width=128
        ),
        data=DataConfig(stages=(Stage(64, 64, clips=6, images=24),), frame_rate=12.5, statistics_clips=512),
        loop=replace(recipe.loop, steps=2200),
        tasks=TaskConfig(image_share=0.05, hold=0.0, early=0.3, late=0.3),
    )


def regen_small_4x_cpu() -> Recipe:
    """The bundled 4× model: 11 M parameters, 64² crops, 57 minutes on two CPU cores; 29.00 dB at 256².

    regen train regen-small-4x-cpu --data DIR --cache FRAMES --out RUN
    """
    return _small_cpu(4, clips=8, steps=3400)


def regen_small_8x_cpu() -> Recipe:
    """The same for ratio 8, 5 M parameters, 1000 updates, 24 minutes on one core; 25.34 dB at 256².

    regen train regen-small-8x-cpu --data DIR --cache FRAMES --out RUN
    """
    return _small_cpu(8, clips=5, steps=1000)


def regen_small_16x_cpu() -> Recipe:
    """The same for ratio 16, 38 minutes on one core that did other work too; 22.60 dB at 256².

    regen train regen-small-16x-cpu --data DIR --cache FRAMES --out RUN
    """
    return _small_cpu(16, clips=3, steps=1000)


def regen_small_32x_cpu() -> Recipe:
    """The same for ratio 32, 400 updates, 34 minutes on a busy core, far too few; 15.69 dB at 256².

    regen train regen-small-32x-cpu --data DIR --cache FRAMES --out RUN
    """
    return _small_cpu(32, clips=2, steps=400)


def regen_small_4x() -> Recipe:
    """About 25 minutes of one H200: 15 M parameters, 128² crops, ratio 4. Not run yet.

    regen train regen-small-4x --data DIR --cache FRAMES --out RUN
    """
    return _small(4, clips=128)


def regen_small_8x() -> Recipe:
    """The same for ratio 8, with 5 M parameters. Not run yet.

    regen train regen-small-8x --data DIR --cache FRAMES --out RUN
    """
    return _small(8, clips=72)


def regen_small_16x() -> Recipe:
    """The same for ratio 16, with 5 M parameters. Not run yet.

    regen train regen-small-16x --data DIR --cache FRAMES --out RUN
    """
    return _small(16, clips=36)


def regen_small_32x() -> Recipe:
    """The same for ratio 32, with 5 M parameters. Not run yet.

    regen train regen-small-32x --data DIR --cache FRAMES --out RUN
    """
    return _small(32, clips=18)


def regen_small_4x_in_context() -> Recipe:
    """regen-small-4x with latents as further tokens and fixed positions (spec A14). Not run yet.

    regen train regen-small-4x-in-context --data DIR --cache FRAMES --out RUN
    """
    recipe = regen_small_4x()
    return replace(recipe, model=replace(recipe.model, conditioning="in_context", attention_window=None))


def regen_small_4x_16ch() -> Recipe:
    """regen-small-4x with 16 latent channels in place of 8. Not run yet.

    regen train regen-small-4x-16ch --data DIR --cache FRAMES --out RUN
    """
    recipe = regen_small_4x()
    return replace(recipe, model=replace(recipe.model, latent_channels=16))


def regen_4x() -> Recipe:
    """The paper's model and training at ratio 4 (spec A2 to A8), for 32 GPUs. Not run here.

    torchrun --nnodes 4 --nproc-per-node 8 ... -m regen train regen-4x --data SHARDS --out RUN
    """
    return _paper(4, clips=6)


def regen_8x() -> Recipe:
    """The paper's model and training at ratio 8, for 32 GPUs. Not run here.

    regen train regen-8x --data DIR --out RUN
    """
    return _paper(8, clips=4)


def regen_16x() -> Recipe:
    """The paper's model and training at ratio 16, for 32 GPUs. Not run here.

    regen train regen-16x --data DIR --out RUN
    """
    return _paper(16, clips=3)


def regen_32x() -> Recipe:
    """The paper's model and training at ratio 32, for 32 GPUs. Not run here.

    regen train regen-32x --data DIR --out RUN
    """
    return _paper(32, clips=1)


def regen_4x_16ch() -> Recipe:
    """The paper's 4× model with 16 latent channels, for 32 GPUs. Not run here.

    regen train regen-4x-16ch --data DIR --out RUN
    """
    recipe = _paper(4, clips=6)
    return replace(recipe, model=replace(recipe.model, latent_channels=16))


def regen_4x_in_context() -> Recipe:
    """The ablation of the paper: in-context conditioning (spec A14), for 32 GPUs. Not run here.

    regen train regen-4x-in-context --data DIR --out RUN
    """
    recipe = _paper(4, clips=6)
    return replace(recipe, model=replace(recipe.model, conditioning="in_context"))


def magvit2_small_4x_cpu() -> Recipe:
    """The baseline beside regen-small-4x-cpu: its encoder, as costly a decoder; 25.47 dB after 600 updates.

    regen train magvit2-small-4x-cpu --data DIR --cache FRAMES --out RUN
    """
    return _small_baseline(4, _small_cpu(4, clips=3, steps=3400))


def magvit2_small_8x_cpu() -> Recipe:
    """The same for ratio 8, 1000 updates, 21 minutes on a busy core; 25.05 dB at 256².

    regen train magvit2-small-8x-cpu --data DIR --cache FRAMES --out RUN
    """
    return _small_baseline(8, _small_cpu(8, clips=3, steps=1000))


def magvit2_small_16x_cpu() -> Recipe:
    """The same for ratio 16, 1000 updates, 28 minutes on a busy core; 23.52 dB at 256².

    regen train magvit2-small-16x-cpu --data DIR --cache FRAMES --out RUN
    """
    return _small_baseline(16, _small_cpu(16, clips=3, steps=1000))


def magvit2_small_32x_cpu() -> Recipe:
    """The same for ratio 32, 400 updates, far too few; 17.10 dB at 256². Its decoder does less (12 MB).

    regen train magvit2-small-32x-cpu --data DIR --cache FRAMES --out RUN
    """
    return _small_baseline(32, _small_cpu(32, clips=2, steps=400))


def magvit2_small_4x() -> Recipe:
    """The baseline on one H200, 128² crops. Not run yet.

    regen train magvit2-small-4x --data DIR --cache FRAMES --out RUN
    """
    recipe = _small_baseline(4, _small(4, clips=40))
    return replace(recipe, model=magvit2_small_4x_cpu().model)  # the encoder of regen-small-4x is too large


def magvit2_small_8x() -> Recipe:
    """The same for ratio 8. Not run yet.

    regen train magvit2-small-8x --data DIR --cache FRAMES --out RUN
    """
    return _small_baseline(8, _small(8, clips=40))


def magvit2_small_16x() -> Recipe:
    """The same for ratio 16. Not run yet.

    regen train magvit2-small-16x --data DIR --cache FRAMES --out RUN
    """
    return _small_baseline(16, _small(16, clips=36))


def magvit2_small_32x() -> Recipe:
    """The same for ratio 32. Not run yet.

    regen train magvit2-small-32x --data DIR --cache FRAMES --out RUN
    """
    return _small_baseline(32, _small(32, clips=18))


def magvit2_small_16x_wide() -> Recipe:
    """magvit2-small-16x with a decoder one and a half times as wide. Not run yet.

    regen train magvit2-small-16x-wide --data DIR --cache FRAMES --out RUN
    """
    recipe = magvit2_small_16x()
    return replace(recipe, model=replace(recipe.model, decoder_widths=(168, 120, 84, 84, 84)))


def magvit2_4x() -> Recipe:
    """The baseline at the paper's size (spec A13), for 32 GPUs. Not run here.

    regen train magvit2-4x --data DIR --out RUN
    """
    return _paper_baseline(4)


def magvit2_8x() -> Recipe:
    """The same for ratio 8. Not run here.

    regen train magvit2-8x --data DIR --out RUN
    """
    return _paper_baseline(8)


def magvit2_16x() -> Recipe:
    """The same for ratio 16. Not run here.

    regen train magvit2-16x --data DIR --out RUN
    """
    return _paper_baseline(16)


def magvit2_32x() -> Recipe:
    """The same for ratio 32. Not run here.

    regen train magvit2-32x --data DIR --out RUN
    """
    return _paper_baseline(32)


def magvit2_16x_wide() -> Recipe:
    """The width-scaled baseline of the paper's Table 5 at ratio 16: as many parameters as REGEN's decoder.

    regen train magvit2-16x-wide --data DIR --out RUN
    """
    recipe = _paper_baseline(16)
    return replace(recipe, model=replace(recipe.model, decoder_widths=(224, 448, 896, 1344, 1344)))


def magvit2_32x_wide() -> Recipe:
    """The width-scaled baseline of the paper's Table 5 at ratio 32: as many parameters as REGEN's decoder.

    regen train magvit2-32x-wide --data DIR --out RUN
    """
    recipe = _paper_baseline(32)
    return replace(recipe, model=replace(recipe.model, decoder_widths=(256, 512, 1024, 1536, 1536)))


def toy_onedva() -> Recipe[OneDVAConfig]:
    """One-DVA in a minute or two on a CPU, to see it run; its pictures are blurred.

    regen train toy-onedva --data DIR --out RUN
    """
    recipe = onedva_small_cpu()
    model = replace(
        recipe.model, encoder_width=96, encoder_depth=2, encoder_heads=3, width=96, depth=3, heads=3,
        latent_channels=16, num_queries=20, region_size=2,
    )  # fmt: skip
    return replace(
        recipe,
        model=model,
        data=replace(recipe.data, stages=(Stage(32, 32, clips=8, images=16),), statistics_clips=64),
        loop=replace(recipe.loop, steps=200, eval_every=100, workers=0),
        start=StartConfig(freeze=("linear",), components=64),
    )


def onedva_small_stage1_cpu() -> Recipe[OneDVAConfig]:
    """Stage 1 of onedva-small-cpu, 24 minutes on one core: all 1D latents, half of the clips at t = 1, L1.

    regen train onedva-small-stage1-cpu --data DIR --cache FRAMES --out STAGE1
    """
    recipe = onedva_small_cpu()
    objective = OneDVAObjective(
        lengths="full",
        pure_noise_prob=0.5,
        t_min=0.5,
        l1_weight=0.5,
        latent_noise_std=0.05,
        alignment_weight=0.0,
    )
    stages = (
        Stage(48, 64, clips=16, images=64, until=0.15),
        Stage(64, 48, clips=16, images=64, until=0.3),
        Stage(64, 64, clips=12, images=48),
    )
    return replace(
        recipe,
        model=replace(recipe.model, objective=objective),
        data=replace(recipe.data, stages=stages, statistics_clips=64),
        loop=replace(recipe.loop, steps=1400),
        optimizer=OptimizerConfig(1e-3, muon_learning_rate=2e-3, warmup_steps=100),
        start=StartConfig(freeze=("linear",), components=700),
    )


def onedva_small_cpu() -> Recipe[OneDVAConfig]:
    """One-DVA, stage 2, 45 minutes on one core; 29.94 dB at 256² and 46.5 values per value.

    regen train onedva-small-cpu --data DIR --cache FRAMES --out RUN --start.model STAGE1
    """
    objective = OneDVAObjective(pure_noise_prob=0.3, t_min=0.5, latent_noise_std=0.05, alignment_weight=0.01)
    model = OneDVAConfig(
        encoder_width=176, encoder_depth=3, encoder_heads=4, linear_skip=True,
        width=176, depth=5, heads=4, pixel_channels=3, num_queries=80, region_size=4,
        query_positions="anchored", timestep_conditioning="adaln_single", length_multiple=4,
        motion_range=(0.00004, 0.037), kl_weight=0.0, objective=objective,
    )  # fmt: skip
    return Recipe(
        model=model,
        data=DataConfig(stages=(Stage(64, 64, clips=12, images=48),), short_side=256, statistics_clips=1024),
        loop=LoopConfig(steps=3000, eval_every=400, save_every_minutes=4.0, ema_decay=0.998, workers=1),
        tasks=TaskConfig(image_share=0.1, hold=1.0),
        optimizer=OptimizerConfig(5e-4, muon_learning_rate=1e-3, warmup_steps=100, decay_fraction=0.4),
        start=StartConfig(freeze=("linear",)),
    )


def onedva_small_post_cpu() -> Recipe:
    """Post-training of onedva-small-cpu: its decoder learns from latents as they will be predicted (spec B9).

    regen train onedva-small-post-cpu --data DIR --cache FRAMES --out RUN --start.model onedva-small
    """
    recipe = onedva_small_cpu()
    return replace(
        recipe,
        loop=replace(recipe.loop, steps=400, eval_every=200),
        losses=LossConfig(prediction=PredictionConfig(share=0.5)),
        optimizer=OptimizerConfig(1e-4, warmup_steps=50, decay_fraction=0.4),
        start=StartConfig(freeze=("encoder", "linear")),
    )


def onedva_small_stage1() -> Recipe:
    """Stage 1 of onedva-small, for about 10 minutes of one H200. Not run yet.

    regen train onedva-small-stage1 --data DIR --cache FRAMES --out STAGE1
    """
    recipe = onedva_small_stage1_cpu()
    stages = (
        Stage(96, 128, clips=96, images=384, until=0.15),
        Stage(128, 96, clips=96, images=384, until=0.3),
        Stage(128, 128, clips=72, images=288),
    )
    return replace(_onedva_gpu(recipe, steps=4000), data=replace(recipe.data, stages=stages))


def onedva_small() -> Recipe:
    """One-DVA for about 15 minutes of one H200, stage 2: 128² crops of 17 frames. Not run yet.

    regen train onedva-small --data DIR --cache FRAMES --out RUN --start.model STAGE1
    """
    recipe = onedva_small_cpu()
    stages = (Stage(128, 128, clips=72, images=288),)
    return replace(_onedva_gpu(recipe, steps=6000), data=replace(recipe.data, stages=stages))


def onedva_base_stage1() -> Recipe:
    """Stage 1 of onedva-base (spec B7): all 1D latents, half of the clips at noise level 1, L1 and LPIPS.

    regen train onedva-base-stage1 --data SHARDS --out STAGE1 --losses.perceptual-file FILE
    """
    return _onedva_stage1(onedva_base())


def onedva_base() -> Recipe[OneDVAConfig]:
    """One-DVA at its base size, stage 2 (spec B2 to B7): 17 frames at 24 per second. Not run here.

    regen train onedva-base --data SHARDS --out RUN --start.model STAGE1 --losses.representation.model SIGLIP
    """
    objective = OneDVAObjective()
    stage = Stage(256, 456, clips=256, images=1024, aspect_ratios=(1.0, 16 / 9))
    return Recipe(
        model=OneDVAConfig(objective=objective),
        data=DataConfig(stages=(stage,), frame_rate=24.0),
        loop=LoopConfig(steps=200_000, activation_checkpointing=True, workers=8, fsdp=True),
        tasks=TaskConfig(hold=1.0),
        optimizer=OptimizerConfig(5e-5),
        losses=LossConfig(representation=RepresentationConfig(weight=0.5)),
    )


def onedva_base_post() -> Recipe:
    """Post-training of onedva-base on predicted latents (spec B9): shrunken ones, until a generator is given.

    regen train onedva-base-post --data SHARDS --out RUN --start.model STAGE2
    """
    return _onedva_post(onedva_base())


def onedva_large_stage1() -> Recipe:
    """Stage 1 of onedva-large.

    regen train onedva-large-stage1 --data SHARDS --out STAGE1 --losses.perceptual-file FILE
    """
    return _onedva_stage1(onedva_large())


def onedva_large() -> Recipe[OneDVAConfig]:
    """onedva-base with an encoder of 24 blocks and width 1024 (spec B2). Not run here.

    regen train onedva-large --data SHARDS --out RUN --start.model STAGE1 --losses.representation.model SIGLIP
    """
    recipe = onedva_base()
    return replace(
        recipe, model=replace(recipe.model, encoder_width=1024, encoder_depth=24, encoder_heads=16)
    )


def onedva_large_post() -> Recipe:
    """Post-training of onedva-large.

    regen train onedva-large-post --data SHARDS --out RUN --start.model STAGE2
    """
    return _onedva_post(onedva_large())


def world_32x_cpu() -> Recipe:
    """REGEN at 32× on the world of moving shapes, from the weights of regen-small-8x, 38 minutes on one core.

    python benchmarks/world.py --out WORLD --videos 480 --frames 66 --size 192 320 --seed 100
    regen train world-32x-cpu --data WORLD --out RUN --start.model regen-small-8x
    """
    recipe = _world(regen_small_32x_cpu(), clips=8, steps=2400, decoded=5)
    rates = OptimizerConfig(4e-4, muon_learning_rate=1e-3, warmup_steps=100, decay_fraction=0.5)
    return replace(recipe, optimizer=rates)


def world_32x() -> Recipe:
    """The same for about 25 minutes of one H200: crops of 96 x 160. Not run yet.

    regen train world-32x --data WORLD --out RUN --start.model regen-small-8x
    """
    recipe = world_32x_cpu()
    return replace(
        recipe,
        data=replace(recipe.data, stages=(Stage(96, 160, clips=32, images=256),)),
        tasks=replace(recipe.tasks, decoded=12),
        loop=replace(recipe.loop, steps=5000, workers=14),
    )


def world_32x_magvit2_cpu() -> Recipe:
    """The baseline beside world-32x-cpu, from the weights of magvit2-small-8x; no discriminator.

    regen train world-32x-magvit2-cpu --data WORLD --out RUN --start.model magvit2-small-8x
    """
    recipe = magvit2_small_32x_cpu()
    model = replace(recipe.model, decoder_widths=SMALL_WIDTHS[8], decoder_blocks=1)
    return _world(replace(recipe, model=model, losses=LossConfig()), clips=4, steps=1500)


def toy_t2v() -> GeneratorRecipe:
    """Text to video in a minute or two on a CPU, to see it run.

    regen train toy-t2v --data LATENTS --out RUN
    """
    recipe = t2v_world_cpu()
    return replace(
        recipe,
        model=replace(recipe.model, width=96, depth=3, heads=3, joint_depth=1),
        data=LatentDataConfig((LatentStage(tokens=8000),), held_out=4, preview_steps=10),
        loop=replace(recipe.loop, steps=200, eval_every=100, workers=0),
    )


def toy_c2v() -> GeneratorRecipe:
    """The same for classes.

    regen train toy-c2v --data LATENTS --out RUN
    """
    recipe = toy_t2v()
    return replace(
        recipe,
        model=replace(recipe.model, joint_depth=0),
        data=replace(recipe.data, condition="class"),
    )


def t2v_world_cpu() -> GeneratorRecipe:
    """Text to video in the world of moving shapes, 5.6 M parameters, 70 minutes on one core: one chunk.

    Of unseen prompts the shape is obeyed in 50 %, colour, direction and speed in all (docs/log.md).

    regen train t2v-world-cpu --data LATENTS --out RUN
    """
    stages = (
        LatentStage(tokens=48 * 240, image_share=1.0, until=0.08),
        LatentStage(tokens=48 * 480, image_share=0.1),
    )
    return GeneratorRecipe(
        model=GeneratorConfig(width=224, depth=6, heads=4, joint_depth=2, timestep="adaln_single", shift=2.0),
        data=LatentDataConfig(stages),
        loop=LoopConfig(steps=3000, eval_every=500, save_every_minutes=4.0, ema_decay=0.998, workers=1),
        optimizer=OptimizerConfig(1e-3, muon_learning_rate=2e-3, warmup_steps=50, decay_fraction=0.5),
    )


def t2v_world_long_cpu() -> GeneratorRecipe:
    """What comes after t2v-world-cpu: up to four chunks in a row, and the size of 192 x 320 as well.

    regen train t2v-world-long-cpu --data LATENTS --out RUN --start STAGE1
    """
    recipe = t2v_world_cpu()
    stages = (LatentStage(tokens=40 * 480, image_share=0.05, chunks=(1, 1, 4)),)
    return replace(
        recipe,
        data=LatentDataConfig(stages),
        loop=replace(recipe.loop, steps=300, eval_every=100),
        optimizer=OptimizerConfig(5e-4, muon_learning_rate=1e-3, warmup_steps=20, decay_fraction=0.7),
    )


def t2v_world() -> GeneratorRecipe:
    """The same model for about 25 minutes of one H200. Not run yet.

    regen train t2v-world --data LATENTS --out RUN
    """
    recipe = t2v_world_cpu()
    stages = tuple(replace(stage, tokens=8 * stage.tokens) for stage in recipe.data.stages)
    return replace(
        recipe,
        data=replace(recipe.data, stages=stages),
        loop=replace(recipe.loop, steps=12_000, eval_every=2000, ema_decay=0.999, workers=14),
        optimizer=replace(recipe.optimizer, warmup_steps=500),
    )


def c2v_world_cpu() -> GeneratorRecipe:
    """Class to video in the world of moving shapes, for the comparison of embedders (spec A15), on one core.

    regen train c2v-world-cpu --data LATENTS --out RUN
    """
    recipe = t2v_world_cpu()
    stages = (LatentStage(tokens=32 * 480, image_share=0.1),)
    return replace(
        recipe,
        model=replace(recipe.model, joint_depth=0),
        data=LatentDataConfig(stages, condition="class"),
        loop=replace(recipe.loop, steps=1100),
    )


def c2v_onedva_world_cpu() -> GeneratorRecipe:
    """Class to video on the hybrid latents of onedva-small, 17 frames of 64 x 64, on one core (spec B8).

    regen train c2v-onedva-world-cpu --data LATENTS --out RUN
    """
    recipe = c2v_world_cpu()
    stages = (LatentStage(tokens=48 * 80, image_share=0.0),)
    return replace(
        recipe,
        model=replace(recipe.model, width=192, patch_size=1, given_share=0.0),
        data=LatentDataConfig(stages, condition="class"),
        loop=replace(recipe.loop, steps=500, eval_every=250),
    )


def t2v_small() -> GeneratorRecipe:
    """Text to video on any latents, 0.12 B parameters, for about 25 minutes of one H200. Not run yet.

    regen train t2v-small --data LATENTS --out RUN
    """
    stages = (
        LatentStage(tokens=256 * 240, image_share=1.0, until=0.3),
        LatentStage(tokens=256 * 480, image_share=0.2),
    )
    return GeneratorRecipe(
        model=GeneratorConfig(width=512, depth=12, heads=8, joint_depth=12, shift=2.0),
        data=LatentDataConfig(stages),
        loop=LoopConfig(steps=10_000, ema_decay=0.999, workers=14),
        optimizer=OptimizerConfig(5e-4, muon_learning_rate=1e-3, warmup_steps=500, decay_fraction=0.3),
    )


def t2v_base() -> GeneratorRecipe:
    """Text to video, 0.9 B parameters, for 8 GPUs. Not run here.

    torchrun --nproc-per-node 8 -m regen train t2v-base --data LATENTS --out RUN --data.text TEXT_ENCODER
    """
    return _t2v_paper(GeneratorConfig(width=1024, depth=24, heads=16, joint_depth=24, shift=3.0), 64)


def t2v_5b() -> GeneratorRecipe:
    """The paper's size of text-to-video model on 32× latents (spec A15), for 64 GPUs. Not run here.

    torchrun --nnodes 8 --nproc-per-node 8 ... -m regen train t2v-5b --data LATENTS --out RUN
    """
    return _t2v_paper(GeneratorConfig(width=2048, depth=33, heads=16, joint_depth=33, shift=3.0), 256)


def latte_l2() -> GeneratorRecipe:
    """Class to video with the size of Latte-L/2, on latents of UCF-101 (spec A15). Not run here.

    regen latents export --data UCF101_SHARDS --out LATENTS --model EMBEDDER --size 256 --frames 33
    torchrun --nproc-per-node 8 -m regen train latte-l2 --data LATENTS --out RUN
    """
    stages = (LatentStage(tokens=64 * 2 * 32 * 32, image_share=0.0),)
    return GeneratorRecipe(
        model=GeneratorConfig(),
        data=LatentDataConfig(stages, condition="class"),
        loop=LoopConfig(steps=300_000, ema_decay=0.9999, activation_checkpointing=True, workers=8),
        optimizer=OptimizerConfig(1e-4, warmup_steps=2000),
    )


def _world(recipe: Recipe, clips: int, steps: int, decoded: int | None = None) -> Recipe:
    """64² crops at the scales at which the world is generated; reconstruction alone."""
    return replace(
        recipe,
        data=DataConfig((Stage(64, 64, clips=clips, images=32),), scale=(0.45, 1.0), statistics_clips=512),
        tasks=TaskConfig(image_share=0.15, hold=1.0, decoded=decoded),
        loop=replace(recipe.loop, steps=steps, eval_every=200),
        optimizer=replace(recipe.optimizer, decay_fraction=0.4),
    )


def _t2v_paper(model: GeneratorConfig, batch: int) -> GeneratorRecipe:
    """260 K updates on images, then 80 K on images and videos of up to 4 chunks at 192 x 320 (spec A15)."""
    stages = (
        LatentStage(tokens=4 * batch * 960, image_share=1.0, until=260 / 340),
        LatentStage(tokens=batch * 8 * 960, image_share=0.3, chunks=(4,)),
    )
    return GeneratorRecipe(
        model=model,
        data=LatentDataConfig(stages, text_tokens=128),
        loop=LoopConfig(steps=340_000, activation_checkpointing=True, workers=8, fsdp=True),
        optimizer=OptimizerConfig(1e-4, warmup_steps=2000),
    )


def _onedva_gpu(recipe: Recipe[OneDVAConfig], steps: int) -> Recipe[OneDVAConfig]:
    """The model of two CPU cores with regions of 128² pixels in place of 64²."""
    return replace(
        recipe,
        model=replace(recipe.model, num_queries=320, region_size=8),
        loop=replace(recipe.loop, steps=steps, workers=14),
    )


def _onedva_stage1(recipe: Recipe[OneDVAConfig]) -> Recipe[OneDVAConfig]:
    """What comes before stage 2 (spec B7): the encoder learns to tell all that it can."""
    objective = OneDVAObjective(lengths="full", pure_noise_prob=0.5, l1_weight=1.0, alignment_weight=0.0)
    return replace(
        recipe,
        model=replace(recipe.model, objective=objective),
        optimizer=OptimizerConfig(1e-4),
        losses=LossConfig(perceptual_weight=0.1),
    )


def _onedva_post(recipe: Recipe[OneDVAConfig]) -> Recipe[OneDVAConfig]:
    """What comes after stage 2 (spec B9): the decoder alone, half of the clips by predicted latents."""
    return replace(
        recipe,
        loop=replace(recipe.loop, steps=20_000),
        optimizer=OptimizerConfig(2e-5),
        losses=LossConfig(prediction=PredictionConfig(share=0.5)),
        start=StartConfig(freeze=("encoder",)),
    )


def _paper(ratio: int, clips: int) -> Recipe:
    """Batches for the paper's 32 GPUs, each with `clips` clips of 192 x 320 or 28 images of about 256² (spec
    A8). Fewer GPUs take as many more passes: --loop.passes."""
    widths = (128, 256, 512, 768) if ratio == 4 else (128, 256, 512, 768, 768)
    return Recipe(
        model=RegenConfig(ratio, encoder_widths=widths),
        data=DataConfig(stages=(Stage(192, 320, clips=32 * clips, images=32 * 28, image_size=(256, 256)),)),
        loop=LoopConfig(steps=100_000, activation_checkpointing=True, workers=8, fsdp=True),
    )


def _small(ratio: int, clips: int) -> Recipe:
    """128² crops for one GPU. Above ratio 4 the models are small enough for `checkpoints/`."""
    model = RegenConfig(
        ratio, encoder_widths=(64, 64, 128, 128), encoder_blocks=1, encoder_patch_size=4,
        linear_skip=True,
        width=320, depth=8, heads=5, timestep_conditioning="adaln_single", attention_window=8,
        t_min=0.5, pure_noise_prob=0.3, latent_noise_std=0.05,
    )  # fmt: skip
    if ratio > 4:
        model = replace(model, encoder_widths=(32, 48, 64, 64, 64), width=192, depth=7, heads=3)
    return Recipe(
        model=model,
        data=DataConfig(
            stages=(Stage(128, 128, clips=clips, images=4 * clips),), short_side=256, statistics_clips=4096
        ),
        loop=LoopConfig(steps=5000, ema_decay=0.998, workers=14),
        optimizer=OptimizerConfig(1e-3, muon_learning_rate=2e-3, warmup_steps=100, decay_fraction=0.3),
    )


def _small_cpu(ratio: int, clips: int, steps: int) -> Recipe:
    """64² crops for two CPU cores. Above ratio 4 the models are small enough for `checkpoints/`."""
    model = RegenConfig(
        ratio, encoder_widths=(48, 64, 96, 128), encoder_blocks=1, encoder_patch_size=4,
        linear_skip=True, width=256, depth=6, heads=4, attention_window=8,
        t_min=0.5, pure_noise_prob=0.3, latent_noise_std=0.05,
    )  # fmt: skip
    if ratio > 4:
        model = replace(model, encoder_widths=(32, 48, 64, 64, 64), width=192, depth=7, heads=3)
        model = replace(model, timestep_conditioning="adaln_single")
    stages = (Stage(64, 64, clips=clips, images=4 * clips),)
    return Recipe(
        model=model,
        data=DataConfig(stages=stages, short_side=256, statistics_clips=1024),
        loop=LoopConfig(steps=steps, eval_every=400, save_every_minutes=4.0, ema_decay=0.998, workers=1),
        tasks=TaskConfig(image_share=0.1, hold=0.3, early=0.02, late=0.1),
        optimizer=OptimizerConfig(1e-3, muon_learning_rate=2e-3, warmup_steps=100, decay_fraction=0.3),
    )


# Decoders of the small baseline with as many operations a frame as the REGEN decoder of the ratio, in 12 MB.
SMALL_WIDTHS = {
    4: (112, 80, 48, 40),
    8: (96, 72, 56, 56, 56),
    16: (112, 80, 56, 56, 56),
    32: (136, 56, 32, 32, 32),
}


def _small_baseline(ratio: int, beside: Recipe) -> Recipe:
    """Encoder, crops and updates of the REGEN recipe `beside`; Muon has no matrices here.

    The learning rate comes from a sweep: with REGEN's, 1e-3, the baseline is several dB worse (docs/log.md).

    At 32× the up-samplers stay in their places: at this size they fit into memory. Latents are deterministic
    like REGEN's; a Gaussian posterior, which begins with a deviation of 1, costs hundreds of updates.
    """
    encoder = beside.model
    assert isinstance(encoder, RegenConfig)
    model = Magvit2Config(
        ratio, encoder_widths=encoder.encoder_widths, encoder_blocks=encoder.encoder_blocks,
        encoder_patch_size=encoder.encoder_patch_size, linear_skip=encoder.linear_skip,
        decoder_widths=SMALL_WIDTHS[ratio], decoder_blocks=2 if ratio == 32 else 1, late_upsampling=False,
        kl_weight=0.0,
    )  # fmt: skip
    start = beside.loop.steps * 7 // 10
    rate = 1e-3 if ratio == 32 else 3e-3  # at 32× 3e-3 diverges
    return replace(
        beside,
        model=model,
        tasks=replace(beside.tasks, hold=1.0),
        optimizer=replace(beside.optimizer, learning_rate=rate, muon_learning_rate=None, warmup_steps=50),
        losses=LossConfig(AdversarialConfig(weight=0.02, start=start, width=16, multipliers=(2, 4, 4))),
    )


def _paper_baseline(ratio: int) -> Recipe:
    """Batches for the paper's 32 GPUs, each with 2 clips or 6 images of 128², with perceptual and adversarial
    losses (spec A8, A13)."""
    widths = (128, 256, 512, 768) if ratio == 4 else (128, 256, 512, 768, 768)
    return Recipe(
        model=Magvit2Config(ratio, encoder_widths=widths),
        data=DataConfig(stages=(Stage(128, 128, clips=32 * 2, images=32 * 6),)),
        loop=LoopConfig(steps=200_000, ema_decay=0.999, activation_checkpointing=ratio == 32, workers=8),
        tasks=TaskConfig(hold=1.0),
        optimizer=OptimizerConfig(1e-4, decay_fraction=0.5),
        losses=LossConfig(AdversarialConfig(), perceptual_weight=0.1),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__.replace("_", "-"): recipe
    for recipe in (
        toy, toy_in_context, toy_16ch, toy_magvit2, toy_magvit2_wide, toy_onedva, shapes_4x_cpu,
        onedva_small_stage1_cpu, onedva_small_cpu, onedva_small_post_cpu, onedva_small_stage1, onedva_small,
        onedva_base_stage1, onedva_base, onedva_base_post,
        onedva_large_stage1, onedva_large, onedva_large_post,
        regen_small_4x_cpu, regen_small_8x_cpu, regen_small_16x_cpu, regen_small_32x_cpu,
        regen_small_4x, regen_small_8x, regen_small_16x, regen_small_32x,
        regen_small_4x_in_context, regen_small_4x_16ch,
        regen_4x, regen_8x, regen_16x, regen_32x, regen_4x_16ch, regen_4x_in_context,
        magvit2_small_4x_cpu, magvit2_small_8x_cpu, magvit2_small_16x_cpu, magvit2_small_32x_cpu,
        magvit2_small_4x, magvit2_small_8x, magvit2_small_16x, magvit2_small_32x, magvit2_small_16x_wide,
        magvit2_4x, magvit2_8x, magvit2_16x, magvit2_32x, magvit2_16x_wide, magvit2_32x_wide,
        world_32x_cpu, world_32x, world_32x_magvit2_cpu,
    )
}  # fmt: skip

GENERATORS: dict[str, Callable[[], GeneratorRecipe]] = {
    recipe.__name__.replace("_", "-"): recipe
    for recipe in (
        toy_t2v, toy_c2v, t2v_world_cpu, t2v_world_long_cpu, t2v_world, c2v_world_cpu,
        c2v_onedva_world_cpu,
        t2v_small, t2v_base, t2v_5b, latte_l2,
    )
}  # fmt: skip
