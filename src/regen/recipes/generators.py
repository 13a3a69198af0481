"""Generators: text or class to video on the latents of an embedder."""

from dataclasses import replace

from regen.generate.generator import GeneratorConfig
from regen.generate.latent_batches import LatentStage
from regen.generate.training import GeneratorRecipe, LatentDataConfig
from regen.recipes.preset import Preset, documented
from regen.train.loop import LoopConfig
from regen.train.optimizer import OptimizerConfig

ON_LATENTS = "regen train {name} --data LATENTS --out RUN"
ON_8_GPUS = "torchrun --nproc-per-node 8 -m regen train {name} --data LATENTS --out RUN"
T5 = "google/flan-t5-xxl"  # T5 v1.1 XXL as safetensors; states of width 4096
ON_WORLD = (
    "python benchmarks/world.py --out WORLD --videos 6400 --seed 1\n\n"
    "python benchmarks/world.py --out LARGE --videos 500 --size 192 320 --seed 2\n\n"
    "python benchmarks/world.py --out LONG --videos 200 --frames 132 --seed 3\n\n"
    "python benchmarks/world.py --out BOTH --videos 80 --frames 132 --size 192 320 --seed 4\n\n"
    "regen latents export --data WORLD LARGE LONG BOTH --out LATENTS --model world-32x\n\n"
    f"{ON_LATENTS}"
)
UCF101 = (
    "regen shards build UCF101/ --out SHARDS --classes-from-folders --min-frames {frames} --min-motion 0 "
    "--max-bars 0 --cuts keep --duplicates keep\n\n"
    "regen latents export --data SHARDS --out LATENTS --model EMBEDDER --size 256 --frames {frames}\n\n"
    "{train}\n\n"
    "regen evaluate-generator --model RUN --data ucf101/trainlist01:UCF101/ --out RESULT --num-videos 2048 "
    "--size 256 --frames {frames} --steps 250 --fvd i3d --fvd-weights i3d_torchscript.pt --fvd-frames {clip}"
)


def t2v_world_cpu() -> GeneratorRecipe:
    """Text to video in the world of moving shapes, 5.6 M parameters, on one core.

    Images, then videos of one chunk, then also of four in a row. Videos of 192 x 320 are one in twelve.
    """
    stages = (
        LatentStage(tokens_per_batch=48 * 240, image_share=1.0, until=0.08),
        LatentStage(tokens_per_batch=48 * 480, image_share=0.1, until=0.75),
        LatentStage(tokens_per_batch=48 * 480, image_share=0.05, chunks=(1, 1, 1, 4)),
    )
    return GeneratorRecipe(
        model=GeneratorConfig(
            width=224,
            depth=6,
            heads=4,
            num_joint_layers=2,
            timestep_conditioning="adaln_single",
            timestep_shift=2.0,
        ),
        data=LatentDataConfig(stages),
        loop=LoopConfig(steps=3300, eval_every=500, save_every_minutes=4.0, ema_decay=0.998, num_workers=1),
        optimizer=OptimizerConfig(1e-3, muon_learning_rate=2e-3, warmup_steps=50, decay_fraction=0.5),
    )


def t2v_world() -> GeneratorRecipe:
    """t2v-world-cpu for about 12 minutes of one H200. Not run yet."""
    recipe = t2v_world_cpu()
    stages = tuple(
        replace(stage, tokens_per_batch=8 * stage.tokens_per_batch) for stage in recipe.data.stages
    )
    return replace(
        recipe,
        data=replace(recipe.data, stages=stages),
        loop=replace(recipe.loop, steps=12_000, eval_every=2000, ema_decay=0.999, num_workers=14),
        optimizer=replace(recipe.optimizer, warmup_steps=500),
    )


def toy_t2v() -> GeneratorRecipe:
    """Text to video in a minute or two on a CPU, to see it run."""
    recipe = t2v_world_cpu()
    return replace(
        recipe,
        model=replace(recipe.model, width=96, depth=3, heads=3, num_joint_layers=1),
        data=LatentDataConfig((LatentStage(tokens_per_batch=8000),), num_val_samples=4, preview_steps=10),
        loop=replace(recipe.loop, steps=200, eval_every=100, num_workers=0),
    )


def toy_c2v() -> GeneratorRecipe:
    """Class to video in a minute or two on a CPU, to see it run."""
    recipe = toy_t2v()
    return replace(
        recipe, model=replace(recipe.model, num_joint_layers=0), data=replace(recipe.data, condition="class")
    )


def c2v_world_cpu() -> GeneratorRecipe:
    """Class to video in the world of moving shapes, to compare embedders (REGEN, Sec. 4), on one core."""
    recipe = t2v_world_cpu()
    stages = (LatentStage(tokens_per_batch=32 * 480, image_share=0.1),)
    return replace(
        recipe,
        model=replace(recipe.model, num_joint_layers=0),
        data=LatentDataConfig(stages, condition="class"),
        loop=replace(recipe.loop, steps=1100),
    )


def c2v_onedva_world_cpu() -> GeneratorRecipe:
    """Class to video on the hybrid latents of onedva-small, 17 frames of 64 x 64, on one core."""
    recipe = c2v_world_cpu()
    stages = (LatentStage(tokens_per_batch=48 * 80, image_share=0.0),)
    return replace(
        recipe,
        model=replace(recipe.model, width=192, patch_size=1, given_frames_prob=0.0),
        data=LatentDataConfig(stages, condition="class"),
        loop=replace(recipe.loop, steps=500, eval_every=250),
    )


def t2v_small() -> GeneratorRecipe:
    """Text to video on any latents, 0.12 B parameters, for about 12 minutes of one H200. Not run yet."""
    stages = (
        LatentStage(tokens_per_batch=256 * 240, image_share=1.0, until=0.3),
        LatentStage(tokens_per_batch=256 * 480, image_share=0.2),
    )
    return GeneratorRecipe(
        model=GeneratorConfig(width=512, depth=12, heads=8, num_joint_layers=12, timestep_shift=2.0),
        data=LatentDataConfig(stages),
        loop=LoopConfig(steps=10_000, ema_decay=0.999, num_workers=14),
        optimizer=OptimizerConfig(5e-4, muon_learning_rate=1e-3, warmup_steps=500, decay_fraction=0.3),
    )


def t2v_paper(width: int, depth: int, batch: int) -> GeneratorRecipe:
    """260 K updates on images, then 80 K on images and videos of up to 4 chunks at 192 x 320."""
    stages = (
        LatentStage(tokens_per_batch=4 * batch * 960, image_share=1.0, until=260 / 340),
        LatentStage(tokens_per_batch=batch * 8 * 960, image_share=0.3, chunks=(4,)),
    )
    return GeneratorRecipe(
        model=GeneratorConfig(width=width, depth=depth, heads=16, num_joint_layers=depth, timestep_shift=3.0),
        data=LatentDataConfig(stages, text_encoder=T5, max_text_tokens=128),
        loop=LoopConfig(steps=340_000, activation_checkpointing=True, num_workers=8, fsdp=True),
        optimizer=OptimizerConfig(1e-4, warmup_steps=2000),
    )


def latte_l2() -> GeneratorRecipe:
    """Class to video by Latte-L/2 (arXiv 2401.03048), 33 frames of UCF-101 at 32×. Not run here.

    Attention is factorised and no frame is given. The last command gives FVD_33 (REGEN, Sec. 4).
    """
    stages = (LatentStage(tokens_per_batch=64 * 2 * 32 * 32, image_share=0.0, sizes=((256, 256),)),)
    return GeneratorRecipe(
        model=GeneratorConfig(attention="factorised", given_frames_prob=0.0),
        data=LatentDataConfig(stages, condition="class"),
        loop=LoopConfig(steps=300_000, ema_decay=0.9999, activation_checkpointing=True, num_workers=8),
        optimizer=OptimizerConfig(1e-4, warmup_steps=2000),
    )


def c2v_onedva() -> GeneratorRecipe:
    """Class to video on the hybrid latents of onedva-base, 17 frames of UCF-101. Not run here.

    The embedder's patches are the tokens. The last command gives the distance of clips of 16 frames.
    """
    stages = (LatentStage(tokens_per_batch=256 * 5 * 16 * 16, image_share=0.0, sizes=((256, 256),)),)
    recipe = latte_l2()
    return replace(
        recipe,
        model=GeneratorConfig(patch_size=1, given_frames_prob=0.0),
        data=replace(recipe.data, stages=stages),
        loop=replace(recipe.loop, fsdp=True),
    )


def t2v_onedva() -> GeneratorRecipe:
    """Text to video on the hybrid latents of onedva-base, at the sizes of its training. Not run here.

    The latents of images are those of images in the data.
    """
    recipe, sizes = t2v_paper(1024, 24, batch=64), ((256, 256), (256, 456))
    stages = (
        LatentStage(tokens_per_batch=1024 * 16 * 16, image_share=1.0, until=260 / 340, sizes=sizes),
        LatentStage(tokens_per_batch=256 * 5 * 16 * 16, image_share=0.3, sizes=sizes),
    )
    return replace(
        recipe,
        model=replace(recipe.model, patch_size=1, given_frames_prob=0.0),
        data=replace(recipe.data, stages=stages),
    )


PRESETS: dict[str, Preset[GeneratorRecipe]] = {
    "toy-t2v": documented(toy_t2v, ON_LATENTS),
    "toy-c2v": documented(toy_c2v, ON_LATENTS),
    "t2v-world-cpu": documented(t2v_world_cpu, ON_WORLD),
    "t2v-world": documented(t2v_world, ON_WORLD),
    "c2v-world-cpu": documented(c2v_world_cpu, ON_LATENTS),
    "c2v-onedva-world-cpu": documented(c2v_onedva_world_cpu, ON_LATENTS),
    "t2v-small": documented(t2v_small, ON_LATENTS),
    "t2v-base": Preset(
        t2v_paper(1024, 24, batch=64),
        "Text to video, 0.9 B parameters, for 8 GPUs. Not run here.",
        ON_8_GPUS,
        gpus=8,
    ),
    "t2v-5b": Preset(
        t2v_paper(2048, 33, batch=256),
        "The paper's size of text-to-video model on 32× latents, for 64 GPUs. Not run here.",
        "torchrun --nnodes 8 --nproc-per-node 8 ... -m regen train {name} --data LATENTS --out RUN",
        gpus=64,
    ),
    "latte-l2": documented(latte_l2, UCF101.format(frames=33, clip=33, train=ON_8_GPUS), gpus=8),
    "c2v-onedva": documented(c2v_onedva, UCF101.format(frames=17, clip=16, train=ON_8_GPUS), gpus=8),
    "t2v-onedva": documented(t2v_onedva, ON_8_GPUS, gpus=8),
}
