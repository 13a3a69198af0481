"""Decoders for the latents of a frozen autoencoder: a toy, and small ones for a CPU or one GPU."""

from dataclasses import replace

from regen.data.tasks import Stage, TaskConfig
from regen.embedders.regen_decoder import RegenDecoderConfig
from regen.recipes.preset import CACHED, PLAIN, Preset, documented
from regen.train.finetune import InitConfig
from regen.train.loop import LoopConfig
from regen.train.optimizer import OptimizerConfig
from regen.train.recipe import DataConfig, Recipe

FOR_WAN = "regen train {name} --data DIR --cache FRAMES --encoder Wan-AI/Wan2.1-T2V-1.3B-Diffusers --out RUN"
MARGIN = 16  # pixels around the crops: encoders look beyond the patches of their latents


def small_cpu() -> Recipe[RegenDecoderConfig]:
    """6 M parameters on 64² crops, for one or two CPU cores; measured on latents of magvit2-small."""
    model = RegenDecoderConfig(
        width=256, depth=5, heads=4, timestep_conditioning="adaln_single", attention_window=8,
        pure_noise_prob=0.7, zero_noise_prob=0.8,
        linear_path=True, detail_channels=12, groups_per_clip=2,
    )  # fmt: skip
    stage = Stage(64, 64, video_batch_size=8, image_batch_size=8, margin=MARGIN)
    return Recipe(
        model=model,
        data=DataConfig(stages=(stage,), short_side=256, statistics_clips=256),
        tasks=TaskConfig(image_share=0.1, warmup_fraction=0.3, share_start=0.05, share_end=0.1),
        loop=LoopConfig(steps=3000, eval_every=400, save_every_minutes=4.0, ema_decay=0.998, num_workers=1),
        optimizer=OptimizerConfig(
            1e-3, muon_learning_rate=2e-3, warmup_steps=100, decay_fraction=0.3, linear_learning_rate=1e-4
        ),
        init=InitConfig(linear_clips=256),
    )


def small_gpu() -> Recipe[RegenDecoderConfig]:
    """20 M parameters on 128² crops, for one GPU. Not run yet."""
    recipe = small_cpu()
    model = replace(
        recipe.model, width=384, depth=10, heads=6
    )  # fmt: skip
    stage = Stage(128, 128, video_batch_size=64, image_batch_size=64, margin=MARGIN)
    return replace(
        recipe,
        model=model,
        data=replace(recipe.data, stages=(stage,), statistics_clips=4096),
        loop=replace(recipe.loop, steps=10_000, num_workers=14),
        init=InitConfig(linear_clips=1024),
    )


def toy() -> Recipe[RegenDecoderConfig]:
    """A decoder in a minute or two on a CPU, to see it work; its pictures are blurred."""
    recipe = small_cpu()
    stage = Stage(32, 32, video_batch_size=4, image_batch_size=4, margin=8)
    return replace(
        recipe,
        model=replace(recipe.model, width=96, depth=2, heads=3, siren_width=32, chunk_frames=9),
        data=replace(recipe.data, stages=(stage,), statistics_clips=32),
        loop=replace(recipe.loop, steps=200, eval_every=100, num_workers=0),
        init=InitConfig(linear_clips=32),
    )


PRESETS: dict[str, Preset[Recipe]] = {
    "toy-decoder": documented(toy, PLAIN.replace("--out", "--encoder magvit2-small-4x --out")),
    "decoder-small-cpu": documented(small_cpu, CACHED.replace("--out", "--encoder magvit2-small-4x --out")),
    "decoder-small": documented(small_gpu, FOR_WAN),
}
