"""The pipeline: diffusers' conventions, the same videos by the same generators, and modules left out."""

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from tiny_evaluation import HEIGHT, WIDTH, make_generator
from tiny_media import make_image

from regen.embedders.preview import fit_rgb_factors
from regen.generate import pipeline as pipeline_module
from regen.generate.pipeline import RegenTextToVideoPipeline, VideoPipelineOutput
from regen.latents import Latents

KINDS = ("text", "class", "nothing", "hybrid class")
TOLD: dict[str, dict[str, Any]] = {
    "text": {"prompt": "a red ball"},
    "class": {"class_labels": "circle moving left"},
    "nothing": {},
    "hybrid class": {"class_labels": "circle moving left"},
}


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory) -> dict[str, RegenTextToVideoPipeline]:
    names = {kind: make_generator(tmp_path_factory.mktemp("models"), kind) for kind in KINDS}
    made = {kind: RegenTextToVideoPipeline.from_pretrained(name) for kind, name in names.items()}
    for pipeline in made.values():
        pipeline.set_progress_bar_config(disable=True)
    return made


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def make(pipeline: RegenTextToVideoPipeline, kind: str, **options: Any) -> Any:
    """What comes of a call with two steps."""
    settings = {"num_inference_steps": 2, "generator": seed(1), "output_type": "pt"} | TOLD[kind] | options
    return pipeline(**settings).frames


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_is_the_same(pipelines, kind, tmp_path):
    pipelines[kind].save_pretrained(tmp_path / "saved")
    loaded = RegenTextToVideoPipeline.from_pretrained(tmp_path / "saved")
    loaded.set_progress_bar_config(disable=True)
    assert (loaded.text_encoder is not None) == (loaded.tokenizer is not None) == (kind == "text")
    assert torch.equal(make(loaded, kind), make(pipelines[kind], kind))


def test_output_types(pipelines):
    pipeline = pipelines["text"]
    options: dict[str, Any] = {"num_frames": 7, "height": 41, "width": 50, "num_videos_per_prompt": 2}
    found = {
        form: make(pipeline, "text", output_type=form, **options) for form in ("pil", "np", "pt", "latent")
    }
    assert found["pt"].shape == (2, 7, 3, 41, 50) and found["np"].shape == (2, 7, 41, 50, 3)
    assert found["pt"].min() >= 0 and found["pt"].max() <= 1 and found["pt"].dtype == torch.float32
    assert np.array_equal(found["np"], found["pt"].permute(0, 1, 3, 4, 2).numpy())
    assert [len(video) for video in found["pil"]] == [7, 7]
    assert isinstance(found["pil"][0][0], PIL.Image.Image) and found["pil"][0][0].size == (50, 41)
    assert np.array_equal(np.array(found["pil"][1][6]), (found["np"][1, 6] * 255).round().astype(np.uint8))
    assert found["latent"].shape == (2, 4, 4, 6, 8)
    (frames,) = pipeline("a red ball", num_inference_steps=2, return_dict=False)
    assert len(frames[0]) == 5
    assert isinstance(pipeline("a red ball", num_inference_steps=1), VideoPipelineOutput)


def test_long_videos_as_latents_and_frames(pipelines):
    assert make(pipelines["class"], "class", num_frames=18, output_type="latent").shape == (1, 4, 8, 6, 8)
    hybrid = make(pipelines["hybrid class"], "hybrid class", num_frames=18, output_type="latent")
    assert isinstance(hybrid, Latents) and hybrid.shape == (1, 4, 8, 3, 4)
    assert make(pipelines["hybrid class"], "hybrid class", num_frames=18).shape == (1, 18, 3, HEIGHT, WIDTH)


def test_generators_and_decoder_steps(pipelines):
    pipeline = pipelines["class"]
    two = make(pipeline, "class", num_videos_per_prompt=2, generator=[seed(1), seed(2)])
    assert torch.equal(make(pipeline, "class", num_videos_per_prompt=2, generator=[seed(1), seed(2)]), two)
    assert (make(pipeline, "class", generator=seed(2))[0] - two[1]).abs().max() < 1e-5
    assert not torch.equal(two[0], two[1])
    assert not torch.equal(make(pipeline, "class"), make(pipeline, "class", decoder_steps=2))
    torch.manual_seed(5)
    free = make(pipeline, "class", generator=None)
    assert not torch.equal(make(pipeline, "class", generator=None), free)
    torch.manual_seed(5)
    assert torch.equal(make(pipeline, "class", generator=None), free)


def test_several_prompts(pipelines):
    generators = [seed(1), seed(2), seed(1), seed(2)]
    prompts = ["a red ball", "a cat"]
    frames = make(
        pipelines["text"], "text", prompt=prompts, num_videos_per_prompt=2, generator=generators,
        negative_prompt=["a cat", "a mat"],
    )  # fmt: skip
    assert len(frames) == 4
    one = make(pipelines["text"], "text", prompt="a cat", negative_prompt="a mat", generator=seed(2))
    assert (one[0] - frames[3]).abs().max() <= 1 / 255


def test_initial_noise_can_be_given(pipelines):
    pipeline, noise = pipelines["nothing"], torch.randn(1, 4, 2, 6, 8)
    found = make(pipeline, "nothing", latents=noise, output_type="latent")
    assert torch.equal(
        make(pipeline, "nothing", latents=noise, output_type="latent", generator=seed(9)), found
    )
    assert not torch.equal(make(pipeline, "nothing", latents=-noise, output_type="latent"), found)
    with pytest.raises(ValueError, match=r"the shape \(1, 4, 4, 6, 8\)"):
        make(pipeline, "nothing", latents=noise, num_frames=10)


def test_the_callback_is_called_once_a_step(pipelines):
    seen: list[Any] = []

    def callback(pipe: Any, step: int, timestep: torch.Tensor, values: dict[str, Any]) -> dict[str, Any]:
        assert list(values) == ["latents"] and pipe.guidance_scale == 4.0 and pipe.num_timesteps == 4
        seen.append((step, float(timestep)))
        return {"latents": torch.zeros_like(values["latents"])} if step == 3 else {}

    options: dict[str, Any] = {"num_inference_steps": 4, "callback_on_step_end": callback}
    assert not make(pipelines["nothing"], "nothing", output_type="latent", **options).any()
    assert seen == [(0, 1000), (1, 750), (2, 500), (3, 250)]
    options = {"callback_on_step_end": lambda pipe, step, timestep, values: seen.append(values)}
    make(pipelines["nothing"], "nothing", callback_on_step_end_tensor_inputs=[], **options)
    assert seen[4:] == [{}, {}]


def test_a_callback_can_show_previews(pipelines):
    pipeline, shown = pipelines["nothing"], list[list[Any]]()
    vae = pipeline.vae
    vae.set_rgb_factors(fit_rgb_factors(vae, [torch.rand(2, 3, vae.chunk_frames, 32, 32) * 2 - 1]))

    def callback(pipe: Any, step: int, timestep: torch.Tensor, values: dict[str, Any]) -> None:
        (video,) = pipe.preview(values["latents"])
        shown.append([image.size for image in video])

    frames = 2 * vae.chunk_frames
    options: dict[str, Any] = {"num_frames": frames, "callback_on_step_end": callback}
    latents = make(pipeline, "nothing", output_type="latent", **options)
    assert shown == [[(8, 6)] * frames] * 2, "all frames, at the resolution of the latents"
    assert len(pipeline.preview(latents)[0]) == frames


def test_a_callback_can_interrupt(pipelines):
    steps: list[int] = []

    def callback(pipe: Any, step: int, timestep: torch.Tensor, values: dict[str, Any]) -> None:
        steps.append(step)
        pipe._interrupt = step == 1

    pipeline = pipelines["nothing"]
    options: dict[str, Any] = {"num_inference_steps": 5, "callback_on_step_end": callback}
    latents = make(pipeline, "nothing", output_type="latent", **options)
    assert (steps, pipeline.interrupt, latents.shape) == ([0, 1], True, (1, 4, 2, 6, 8))
    assert not torch.equal(make(pipeline, "nothing", output_type="latent", num_inference_steps=5), latents)


def test_guidance_acts_above_one(pipelines):
    """As in diffusers, 0 and 1 both follow the prompt without guidance."""
    pipeline = pipelines["text"]
    two, one, zero = (make(pipeline, "text", guidance_scale=scale) for scale in (2.0, 1.0, 0.0))
    assert torch.equal(zero, one) and not torch.equal(one, two)
    assert not pipeline.do_classifier_free_guidance


def test_image_types(pipelines, tmp_path):
    path, pipeline = tmp_path / "first.png", pipelines["text"]
    make_image(path, 60, 90)
    image = PIL.Image.open(path)
    tensor = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255
    array = np.array(image.convert("RGB"))
    forms = (path, str(path), image, tensor, array, array / 255, [image])
    first, *others = (make(pipeline, "text", image=one) for one in forms)
    assert all(torch.equal(first, other) for other in others)
    assert not torch.equal(make(pipeline, "text"), first)
    frames = make(pipeline, "text", prompt=["a", "b"], image=[image, path], generator=[seed(1), seed(1)])
    assert len(frames) == 2


def test_notes_are_logged(pipelines, monkeypatch):
    notes: list[str] = []
    monkeypatch.setattr(pipeline_module.logger, "warning", notes.append)
    make(pipelines["text"], "text", height=41, width=50, prompt="a cat and a ball " * 9)
    assert "cropped to 41x50" in notes[0] and "reads 24" in notes[-1]


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("text", {"output_type": "png"}, "output_type"),
        ("text", {"callback_on_step_end": print, "callback_on_step_end_tensor_inputs": ["x"]}, "be latents"),
        ("text", {"height": 48}, "height and width, or neither"),
        ("text", {"generator": [seed(1), seed(2)]}, "one for each video, not 2"),
        ("text", {"image": torch.zeros(48, 64)}, "3 channels"),
        ("text", {"image": np.zeros((48, 64))}, "3 channels"),
        ("hybrid class", {"latents": torch.zeros(1, 4, 5, 3, 4)}, "1D latents"),
        ("text", {"image": [Path("a"), Path("b")]}, "one for each prompt, not 2"),
    ],
)
def test_impossible_calls_raise(pipelines, kind, options, words):
    with pytest.raises(ValueError, match=words):
        make(pipelines[kind], kind, **options)


def test_a_generator_of_texts_needs_its_text_encoder(pipelines):
    whole = pipelines["text"]
    with pytest.raises(ValueError, match="text_encoder and tokenizer"):
        make(RegenTextToVideoPipeline(whole.generator, whole.vae), "text")
