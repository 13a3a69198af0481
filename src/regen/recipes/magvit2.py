"""The MAGVIT-v2 baseline: with the encoder and the budget of REGEN's recipes."""

from dataclasses import replace

from regen.data.tasks import Stage, TaskConfig
from regen.embedders.magvit2 import Magvit2Config
from regen.embedders.regen import RegenConfig
from regen.losses.adversarial import AdversarialConfig
from regen.losses.auxiliary import LossConfig
from regen.recipes import regen
from regen.recipes.preset import PLAIN, Preset, documented
from regen.train.loop import LoopConfig
from regen.train.optimizer import OptimizerConfig
from regen.train.recipe import DataConfig, Recipe

# Decoders of the small baseline with as many operations a frame as the REGEN decoder of the ratio, in 12 MB.
SMALL_WIDTHS = {
    4: (116, 80, 48, 32),
    8: (96, 80, 56, 56, 56),
    16: (112, 88, 56, 56, 56),
    32: (128, 56, 32, 32, 32),
}

# 64² crops on the CPU, as long as REGEN of the ratio. Ratio: clips in a batch, updates, what differs.
SMALL_CPU = {
    4: (3, 9000, "equally costly decoder"),
    8: (3, 8000, "equally costly decoder"),
    16: (3, 8000, "equally costly decoder"),
    32: (2, 8000, "a smaller decoder, for 12 MB"),
}

# 128² crops on one H200, as long as REGEN of the ratio. Ratio: clips in a batch, updates.
SMALL_GPU = {4: (40, 8000), 8: (40, 8000), 16: (36, 8000), 32: (18, 10_000)}

# Table 5 of the paper: as many parameters as REGEN's decoder of the ratio.
WIDE = {16: (224, 448, 896, 1344, 1344), 32: (256, 512, 1024, 1536, 1536)}


def small(ratio: int, regen_recipe: Recipe[RegenConfig]) -> Recipe[Magvit2Config]:
    """Encoder, crops and updates of a small REGEN recipe; Muon has no matrices here.

    The learning rate comes from a sweep: with REGEN's, 1e-3, the baseline is several dB worse (docs/log.md).

    At 32× the up-samplers stay in their places: at this size they fit into memory. Latents are deterministic
    like REGEN's; a Gaussian posterior, which begins with a deviation of 1, costs hundreds of updates.
    """
    encoder = regen_recipe.model
    model = Magvit2Config(
        ratio, encoder_widths=encoder.encoder_widths, encoder_blocks=encoder.encoder_blocks,
        encoder_patch_size=encoder.encoder_patch_size, linear_skip=encoder.linear_skip,
        decoder_widths=SMALL_WIDTHS[ratio], decoder_blocks=2 if ratio == 32 else 1, late_upsampling=False,
        kl_weight=0.0,
    )  # fmt: skip
    start = regen_recipe.loop.steps * 7 // 10
    rate = 1e-3 if ratio == 32 else 3e-3  # at 32× 3e-3 diverges
    return Recipe(
        model=model,
        data=regen_recipe.data,
        loop=regen_recipe.loop,
        tasks=replace(regen_recipe.tasks, warmup_fraction=1.0),
        optimizer=replace(
            regen_recipe.optimizer, learning_rate=rate, muon_learning_rate=None, warmup_steps=50
        ),
        losses=LossConfig(AdversarialConfig(weight=0.02, start=start, width=16, multipliers=(2, 4, 4))),
    )


def small_cpu(ratio: int) -> Recipe[Magvit2Config]:
    """64² crops for two CPU cores."""
    clips, steps, _ = SMALL_CPU[ratio]
    return small(ratio, regen.small_cpu(ratio, clips, steps))


def small_gpu(ratio: int) -> Recipe[Magvit2Config]:
    """128² crops for one GPU."""
    recipe = small(ratio, regen.small_gpu(ratio, *SMALL_GPU[ratio]))
    if ratio == 4:  # the encoder of regen-small-4x is too large
        return replace(recipe, model=small_cpu(4).model)
    return recipe


def paper(ratio: int) -> Recipe[Magvit2Config]:
    """Batches for the paper's 32 GPUs, each with 2 clips or 6 images of 128², with perceptual and adversarial
    losses. Crops are taken from pictures of 192 lines, REGEN's."""
    widths = (128, 256, 512, 768) if ratio == 4 else (128, 256, 512, 768, 768)
    return Recipe(
        model=Magvit2Config(ratio, encoder_widths=widths),
        data=DataConfig(
            stages=(Stage(128, 128, video_batch_size=32 * 2, image_batch_size=32 * 6),),
            scale=(1.0, 1.0),
            short_side=192,
        ),
        loop=LoopConfig(steps=200_000, ema_decay=0.999, activation_checkpointing=ratio == 32, num_workers=8),
        tasks=TaskConfig(warmup_fraction=1.0),
        optimizer=OptimizerConfig(1e-4, decay_fraction=0.5),
        losses=LossConfig(AdversarialConfig(), perceptual_weight=0.1),
    )


def toy() -> Recipe[Magvit2Config]:
    """The baseline and its discriminator in a minute or two on a CPU, to see it run; blurred pictures."""
    recipe = small_cpu(4)
    return replace(
        recipe,
        model=replace(recipe.model, encoder_widths=(32, 32, 64, 64), decoder_widths=(32, 32, 32, 32)),
        data=replace(
            recipe.data, stages=(Stage(32, 32, video_batch_size=3, image_batch_size=16),), statistics_clips=64
        ),
        loop=replace(recipe.loop, steps=200, eval_every=100, num_workers=0),
        losses=LossConfig(AdversarialConfig(weight=0.02, start=140, width=8, multipliers=(2, 4))),
    )


def world_cpu() -> Recipe[Magvit2Config]:
    """The baseline to world-32x-cpu, from magvit2-small-8x; no discriminator."""
    recipe = small_cpu(32)
    model = replace(recipe.model, decoder_widths=SMALL_WIDTHS[8], decoder_blocks=1)
    return regen.on_shape_world(replace(recipe, model=model, losses=LossConfig()), clips=4, steps=1500)


def wide(recipe: Recipe[Magvit2Config], widths: tuple[int, ...]) -> Recipe[Magvit2Config]:
    """The recipe with other widths of the decoder."""
    return replace(recipe, model=replace(recipe.model, decoder_widths=widths))


def wide_paper(ratio: int, widths: tuple[int, ...]) -> Recipe[Magvit2Config]:
    """The width-scaled baseline at the paper's size, sharded: its state alone has 58 GB."""
    recipe = wide(paper(ratio), widths)
    return replace(recipe, loop=replace(recipe.loop, fsdp=True, activation_checkpointing=True))


PRESETS: dict[str, Preset[Recipe]] = {
    "toy-magvit2": documented(toy, PLAIN),
    "toy-magvit2-wide": Preset(
        wide(toy(), (64, 64, 64, 64)), "The toy baseline with a decoder twice as wide.", PLAIN
    ),
}
for ratio, (_, _, size) in SMALL_CPU.items():
    summary = f"The baseline beside linear-{ratio}x, with the encoder of regen-small-{ratio}x-cpu; {size}."
    PRESETS[f"magvit2-small-{ratio}x-cpu"] = Preset(regen.on_linear_path(small_cpu(ratio), ratio), summary)
for ratio in SMALL_GPU:
    summary = f"The baseline at {ratio}× beside linear-{ratio}x, 128² crops, on one H200. Not run yet."
    PRESETS[f"magvit2-small-{ratio}x"] = Preset(regen.on_linear_path(small_gpu(ratio), ratio), summary)
PRESETS["magvit2-small-16x-wide"] = Preset(
    wide(regen.on_linear_path(small_gpu(16), 16), (168, 120, 84, 84, 84)),
    "magvit2-small-16x with a decoder one and a half times as wide. Not run yet.",
)
for ratio in (4, 8, 16, 32):
    summary = f"The baseline at the paper's size and ratio {ratio}, for 32 GPUs. Not run here."
    PRESETS[f"magvit2-{ratio}x"] = Preset(paper(ratio), summary, PLAIN, gpus=32)
for ratio, widths in WIDE.items():
    summary = (
        f"The width-scaled baseline of the paper's Table 5 at ratio {ratio}: as many parameters as REGEN's "
        "decoder. Not run here."
    )
    PRESETS[f"magvit2-{ratio}x-wide"] = Preset(wide_paper(ratio, widths), summary, PLAIN, gpus=32)
PRESETS["world-32x-magvit2-cpu"] = documented(
    world_cpu, "regen train {name} --data WORLD --out RUN --init.model magvit2-small-8x"
)
