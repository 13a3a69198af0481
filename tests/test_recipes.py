"""Every named configuration builds, is what its name says, and its parameters keep their names."""

import hashlib
import json
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from regen.cli.recipes import INDEX, recipe_index
from regen.generate.generator import LatentGenerator
from regen.generate.inputs import Condition
from regen.generate.training import GeneratorRecipe
from regen.latents import Latents
from regen.metrics.cost import count_matmuls, total_flops
from regen.recipes import GENERATORS, HELP, RECIPES, make_index
from regen.train.recipe import build_model

GOLDEN = Path(__file__).parent / "golden" / "parameters.json"
METHOD = (Path(__file__).parents[1] / "docs" / "method.md").read_text(encoding="utf-8")
IN_DOCS = [
    "regen-4x", "regen-8x", "regen-32x", "regen-4x-16ch", "regen-small-4x-cpu",
    "onedva-base", "onedva-large", "onedva-small-cpu",
]  # fmt: skip


@cache
def described(name: str) -> tuple[dict[str, int], str]:
    """Parameters of the model and its parts, and a hash of their names and shapes."""
    with torch.device("meta"):
        model = build_model(RECIPES[name].model)
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    lines = sorted(f"{key} {tuple(value.shape)}" for key, value in model.state_dict().items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    return {"parameters": sum(parts.values()), **parts}, digest


def fingerprint(name: str) -> dict[str, int | str]:
    counts, names = described(name)
    return {"parameters": counts["parameters"], "names": names}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_complete_and_its_parameters_keep_their_names(name):
    """Old checkpoints keep loading. A wanted change: run this file as a program, it writes the table."""
    recipe = RECIPES[name]
    assert recipe.data.stages[-1].until == 1.0
    assert all(stage.height % 8 == stage.width % 8 == 0 for stage in recipe.data.stages)
    assert json.loads(json.dumps(asdict(recipe)))["loop"]["steps"] == recipe.loop.steps
    if name.startswith(("regen", "magvit2")):
        assert f"{recipe.model.temporal_compression_ratio}x" in name
    channels = 16 if name == "toy-onedva" or "decoder" in name else 32 if "onedva" in name else 8
    assert recipe.model.latent_channels == (16 if "16ch" in name else channels)
    assert json.loads(GOLDEN.read_text())[name] == fingerprint(name)


def test_help_gives_the_command_of_each_recipe():
    assert set(HELP) == {*RECIPES, *GENERATORS}
    assert [name for name, text in HELP.items() if f"regen train {name} --data" not in text] == []


def test_the_papers_size_follows_from_its_arithmetic():
    """12 d² for attention and feed-forward and 6 d² for adaLN in each of 24 blocks."""
    blocks = 24 * 18 * 2048**2
    assert blocks < described("regen-4x")[0]["decoder"] < 1.02 * blocks


def test_batches_of_the_paper_match_in_tokens():
    """28 images of 256² are as many tokens as 6 four-fold clips of 192 x 320, within 1 %."""
    stage = RECIPES["regen-4x"].data.stages[0]
    assert stage.image_buckets[0] == (256, 256)
    images = stage.image_batch_size * (256 // 8) ** 2
    clips = stage.video_batch_size * 5 * (stage.height // 8) * (stage.width // 8)
    assert abs(images / clips - 1) < 0.01


@pytest.mark.parametrize("name", IN_DOCS)
def test_docs_have_the_parameter_counts(name):
    assert [count for count in described(name)[0].values() if f"{count:,}" not in METHOD] == []


def test_small_models_fit_into_checkpoints():
    """In bf16: 32 MB for regen-small-4x on any hardware, 12 MB for those in checkpoints/."""
    for name in (name for name in RECIPES if "-small-" in name and "wide" not in name):
        limit = 32e6 if name.startswith("regen-small-4x") else 12e6
        assert 2 * described(name)[0]["parameters"] < limit, name


@pytest.mark.parametrize("ratio", [4, 8, 16, 32])
def test_the_small_baseline_has_the_encoder_the_loop_and_the_operations_of_regen(ratio):
    """Operations of decoding a frame of 64 x 64 pixels; at 32x no more fit into 12 MB."""
    recipes = [RECIPES[f"{kind}-small-{ratio}x-cpu"] for kind in ("regen", "magvit2")]
    costs = []
    with FakeTensorMode(), torch.no_grad():
        models = [build_model(recipe.model) for recipe in recipes]
        for model, latent_frames in zip(models, (2, 1 + (models[1].chunk_frames - 1) // ratio), strict=True):
            latents = torch.zeros(1, 8, latent_frames, 8, 8)
            costs.append(total_flops(count_matmuls(partial(model.decode, latents))) / model.chunk_frames)
    assert (0.7 if ratio == 32 else 0.95) < costs[1] / costs[0] < 1.05
    shapes = [[tuple(p.shape) for p in model.encoder.parameters()] for model in models]
    assert shapes[0] == shapes[1]
    assert replace(recipes[0].loop, steps=1) == replace(recipes[1].loop, steps=1), "in updates of their own"


@pytest.mark.parametrize("ratio", [16, 32])
def test_the_wide_baseline_has_the_parameters_of_regens_decoder(ratio):
    wide, regen = (described(name)[0]["decoder"] for name in (f"magvit2-{ratio}x-wide", f"regen-{ratio}x"))
    assert abs(wide / regen - 1) < 0.05


@pytest.mark.parametrize("name", GENERATORS)
def test_generator_recipes_are_complete(name):
    recipe = GENERATORS[name]
    assert isinstance(recipe, GeneratorRecipe) and recipe.data.stages[-1].until == 1.0
    assert (recipe.model.num_joint_layers > 0) == (recipe.data.condition == "text")
    assert json.loads(json.dumps(asdict(recipe)))["loop"]["steps"] == recipe.loop.steps


def generator_cost(name: str, layers: int) -> tuple[int, int]:
    """Parameters, and operations of one evaluation for 132 frames of 192 x 320 on the latents of a 32x REGEN.

    Text has 128 tokens, of minilm or for the large models of a T5 of width 4096.
    """
    recipe = GENERATORS[name]
    text = recipe.data.condition == "text"
    width = (4096 if name in ("t2v-base", "t2v-5b") else 384) if text else None
    config = replace(recipe.model, depth=layers, num_joint_layers=min(layers, recipe.model.num_joint_layers))
    with torch.device("meta"):
        model = LatentGenerator(
            **asdict(config),
            latent_spec={"channels": 8, "chunk_frames": 33, "chunk_latents": 2},
            classes=None if text else [str(number) for number in range(101)],
            text_width=width,
        )
        condition = Condition(label=torch.zeros(1, dtype=torch.long))
        if width:
            mask = torch.ones(1, 128, dtype=torch.bool)
            condition = Condition(text=torch.zeros(1, 128, width), text_mask=mask)
        latents, noise_level = Latents.of(torch.zeros(1, 8, 8, 24, 40)), torch.zeros(1)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.velocity(latents, noise_level, condition)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops()


def test_latte_is_the_model_of_its_paper():
    """L/2: 24 blocks of width 1024 with 16 heads on patches of 2; no given frames, no images."""
    model, data = GENERATORS["latte-l2"].model, GENERATORS["latte-l2"].data
    size = (model.depth, model.width, model.heads, model.patch_size)
    assert size == (24, 1024, 16, 2) and model.attention == "factorised"
    assert model.given_frames_prob == 0.0 and data.condition == "class"
    assert {stage.image_share for stage in data.stages} == {0.0}
    assert "--fvd-frames 33" in HELP["latte-l2"] and "regen evaluate-generator" in HELP["latte-l2"]


def test_text_encoders_are_t5_at_paper_size_and_minilm_below():
    encoders = {name: recipe.data.text_encoder for name, recipe in GENERATORS.items()}
    large = {name for name, encoder in encoders.items() if encoder == "google/flan-t5-xxl"}
    assert large == {"t2v-base", "t2v-5b", "t2v-onedva"}
    assert {encoders[name] for name in GENERATORS if name not in large} == {"minilm"}


@pytest.mark.parametrize("name", ["c2v-onedva", "t2v-onedva"])
def test_generators_on_one_dva_have_its_patches_and_sizes(name):
    """A token for each patch of the embedder; the crops of its recipe, whole in patches."""
    recipe = GENERATORS[name]
    assert recipe.model.patch_size == 1 and recipe.model.width == 1024
    sizes = {size for stage in recipe.data.stages for size in stage.sizes}
    assert sizes <= {(256, 256), (256, 456)}
    text = recipe.data.condition == "text"
    with torch.device("meta"):
        model = LatentGenerator(
            **asdict(recipe.model),
            latent_spec={"channels": 32, "chunk_frames": 17, "chunk_latents": 5, "has_sequence": True},
            classes=None if text else [str(number) for number in range(101)],
            text_width=4096 if text else None,
        )
    assert f"{sum(p.numel() for p in model.parameters()):,}" in METHOD


@pytest.mark.parametrize("name", ["t2v-world-cpu", "t2v-small", "t2v-base", "t2v-5b", "latte-l2"])
def test_docs_have_parameters_and_operations_of_generators(name):
    """Both are linear in the number of layers of one kind, or of pairs of two kinds."""
    depth = GENERATORS[name].model.depth
    first, second = generator_cost(name, 4), generator_cost(name, 6)
    both = zip(first, second, strict=True)
    count, operations = (one + (depth - 4) * (two - one) // 2 for one, two in both)
    assert f"| {name} | {count:,} | {operations / 1e12:.3g} |" in METHOD
    assert name != "t2v-world-cpu" or 2 * count < 12e6  # its place in checkpoints/


def test_the_index_of_the_command_line_is_that_of_the_recipes():
    """A wanted change: run this file as a program, it writes the index."""
    assert recipe_index() == make_index()
    assert [recipe["name"] for recipe in make_index()] == list(HELP)


if __name__ == "__main__":
    INDEX.write_text(json.dumps(make_index(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    GOLDEN.write_text(json.dumps({name: fingerprint(name) for name in RECIPES}, indent=1) + "\n")
