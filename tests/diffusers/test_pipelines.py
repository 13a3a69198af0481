"""The checks of diffusers' own tester of pipelines, on the pipeline of each kind of generator."""

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from tiny_evaluation import make_generator
from torch import Tensor, nn

from regen.generate.pipeline import RegenTextToVideoPipeline
from regen.latents import Latents

CPU = torch.device("cpu")
INPUTS: dict[str, dict[str, Any]] = {
    "text": {"prompt": "a red ball", "negative_prompt": "a cat"},
    "class": {"class_labels": "circle moving left"},
    "hybrid class": {"class_labels": "circle moving left"},
}
PER_KIND = pytest.mark.parametrize("kind", INPUTS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {kind: make_generator(tmp_path_factory.mktemp("models"), kind) for kind in INPUTS}


def pipeline_of(folder: str) -> RegenTextToVideoPipeline:
    pipeline = RegenTextToVideoPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def call(pipeline: DiffusionPipeline, kind: str, **options: Any) -> Any:
    seed = torch.Generator().manual_seed(0)
    settings = {"num_inference_steps": 2, "generator": seed, "output_type": "pt"} | INPUTS[kind]
    return pipeline(**settings | options).frames


def test_the_signature_has_the_usual_arguments() -> None:
    names = inspect.signature(RegenTextToVideoPipeline.__call__).parameters.keys()
    assert {
        "prompt", "negative_prompt", "height", "width", "num_frames", "num_inference_steps", "guidance_scale",
        "num_videos_per_prompt", "generator", "latents", "prompt_embeds", "negative_prompt_embeds",
        "output_type", "return_dict", "callback_on_step_end", "callback_on_step_end_tensor_inputs",
    } <= names  # fmt: skip


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("batch", [1, 2])
def test_numbers_of_prompts_and_videos(folders, batch: int, count: int) -> None:
    pipeline = pipeline_of(folders["text"])
    options = {"prompt": ["a red ball"] * batch, "negative_prompt": None}
    frames = call(pipeline, "text", num_videos_per_prompt=count, **options)
    assert frames.shape[0] == batch * count


@PER_KIND
def test_a_batch_is_the_same_as_single_calls(folders, kind: str) -> None:
    """Floats do not pass through 8 bits."""
    pipeline = pipeline_of(folders[kind])
    seeds = [torch.Generator().manual_seed(seed) for seed in (4, 5, 6)]
    name = "prompt" if kind == "text" else "class_labels"
    options = {name: [INPUTS[kind][name]] * 3}
    batch = call(pipeline, kind, generator=seeds, **options)
    for seed, frames in zip((4, 5, 6), batch, strict=True):
        single = call(pipeline, kind, generator=torch.Generator().manual_seed(seed))[0]
        torch.testing.assert_close(single, frames, atol=1e-4, rtol=0)
    assert len(batch.mul(255).frac().unique()) > 100


@PER_KIND
def test_dicts_and_tuples_and_kinds_of_arrays(folders, kind: str) -> None:
    pipeline = pipeline_of(folders[kind])
    frames = call(pipeline, kind)
    seed = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": 2, "generator": seed, "output_type": "np", "return_dict": False}
    (array,) = pipeline(**options | INPUTS[kind])
    assert isinstance(array, np.ndarray) and array.dtype == np.float32
    np.testing.assert_allclose(array, frames.permute(0, 1, 3, 4, 2).numpy(), atol=1e-6)
    images = call(pipeline, kind, output_type="pil")
    assert np.abs(np.array(images[0][0]) / 255 - array[0, 0]).max() <= 0.5 / 255 + 1e-6


@PER_KIND
def test_saved_and_loaded_in_half_precision_and_without_optional_parts(folders, kind: str, tmp_path) -> None:
    pipeline = pipeline_of(folders[kind])
    expected = call(pipeline, kind)
    pipeline.save_pretrained(tmp_path / "saved")
    loaded = RegenTextToVideoPipeline.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.generator.dtype == loaded.vae.dtype == torch.bfloat16
    frames = call(loaded, kind)
    assert frames.shape == expected.shape and bool(torch.isfinite(frames).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@PER_KIND
def test_half_precision(folders, kind: str, dtype: torch.dtype) -> None:
    pipeline = pipeline_of(folders[kind]).to(dtype)
    frames = call(pipeline, kind)
    assert frames.dtype == torch.float32 and bool(torch.isfinite(frames).all())


@PER_KIND
def test_offloading(folders, kind: str) -> None:
    """Of layers (`enable_sequential_cpu_offload`, whose hooks need a device without index) and of models."""
    expected = call(pipeline_of(folders[kind]), kind)
    sequential, whole = pipeline_of(folders[kind]), pipeline_of(folders[kind])
    for part in sequential.components.values():
        if isinstance(part, nn.Module):
            cpu_offload(part, CPU, offload_buffers=len(part._parameters) > 0)
    assert next(sequential.generator.parameters()).device.type == "meta"
    whole.enable_model_cpu_offload(device="cpu")
    for pipeline in (sequential, whole):
        for _ in range(2):
            torch.testing.assert_close(call(pipeline, kind), expected, atol=1e-4, rtol=0)


@PER_KIND
def test_layerwise_casting(folders, kind: str) -> None:
    expected = call(pipeline_of(folders[kind]), kind)
    for storage, compute in ((torch.float8_e4m3fn, torch.bfloat16), (torch.bfloat16, torch.float32)):
        pipeline = pipeline_of(folders[kind])
        for part in (pipeline.generator, pipeline.vae):
            part.enable_layerwise_casting(storage_dtype=storage, compute_dtype=compute)
        frames = call(pipeline, kind)
        assert bool(torch.isfinite(frames).all()) and (frames - expected).abs().mean() < 0.2


@PER_KIND
def test_callbacks_change_latents(folders, kind: str) -> None:
    pipeline = pipeline_of(folders[kind])
    steps: list[int] = []

    def zero(pipe: DiffusionPipeline, step: int, timestep: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        assert tensors.keys() == {"latents"} and float(timestep) <= 1000
        if step < pipe.num_timesteps - 1:
            return tensors
        return {"latents": Latents.of(tensors["latents"]).map(torch.zeros_like).for_decoder()}

    latents = call(pipeline, kind, output_type="latent", callback_on_step_end=zero)
    assert steps == [0, 1] and not any(part.any() for part in Latents.of(latents).parts)


def test_guidance(folders) -> None:
    pipeline = pipeline_of(folders["text"])
    guided, free = call(pipeline, "text", guidance_scale=6.0), call(pipeline, "text", guidance_scale=1.0)
    assert not torch.allclose(guided, free)
    assert pipeline.guidance_scale == 1.0 and not pipeline.do_classifier_free_guidance


def embeds(text: RegenTextToVideoPipeline, count: int = 1) -> dict[str, Tensor | None]:
    pair = text.encode_prompt("a red ball", "a cat", num_videos_per_prompt=count)
    return dict(zip(("prompt_embeds", "negative_prompt_embeds"), pair, strict=True))


def test_prompts_are_encoded_apart_from_the_rest(folders) -> None:
    """By a pipeline of the text encoder alone, for one that has none."""
    whole = pipeline_of(folders["text"])
    parts = whole.components
    text = RegenTextToVideoPipeline(None, None, parts["text_encoder"], parts["tokenizer"])
    rest = RegenTextToVideoPipeline(parts["generator"], parts["vae"])
    rest.set_progress_bar_config(disable=True)
    expected = call(whole, "text")
    without = {"prompt": None, "negative_prompt": None}
    torch.testing.assert_close(call(rest, "text", **without | embeds(text)), expected, atol=1e-5, rtol=0)
    seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    two = call(whole, "text", num_videos_per_prompt=2, generator=seeds)
    seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    found = call(rest, "text", generator=seeds, **without | embeds(text, 2))
    torch.testing.assert_close(found, two, atol=1e-5, rtol=0)
    assert embeds(text, 2)["prompt_embeds"].shape == (2, *embeds(text)["prompt_embeds"].shape[1:])
    assert text.encode_prompt("a ball")[1] is None
    empty, _ = text.encode_prompt(["", "a red ball"])
    assert not empty[0].any() and empty[1].any(1).sum() > 1


WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "not both": ("text", {"prompt_embeds": torch.zeros(1, 3, 32)}),
    "32 channels, got 5": ("text", {"prompt": None, "prompt_embeds": torch.zeros(1, 3, 5)}),
    "reads no texts": ("class", {"prompt_embeds": torch.zeros(1, 3, 32)}),
    "needs a prompt": ("text", {"prompt": None, "negative_prompt": None}),
    "Give 1 negative prompt, or 1": ("text", {"negative_prompt": ["a cat", "a dog", "a cow"]}),
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_embeds_are_rejected(folders, words: str) -> None:
    kind, options = WRONG[words]
    with pytest.raises(ValueError, match=words):
        call(pipeline_of(folders[kind]), kind, **options)
