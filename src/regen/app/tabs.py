"""The tabs of the app."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from regen.app.models import AppModels
from regen.app.page import (
    Workplace,
    clip_tab,
    model_input,
    on_click,
    shown,
    work_buttons,
)
from regen.app.work import MAX_PROMPT, Coding, Job, Wish, random_prompt
from regen.codec.sessions import Seams
from regen.data.shape_world import EXAMPLE, VALUES

Number = int | float  # browsers do not tell them apart
GRAMMAR = """The bundled generators know videos of the *shape world*, whose sentences have one form:

> COUNT SIZE TEXTURE COLOUR SHAPE(s) move(s) DIRECTION SPEED on a BACKGROUND background
> while the camera CAMERA

| | |
|---|---|
{rows}

Other sentences work, too, but expect anything. Of a generator with classes, give the name of a class."""


def reconstruct_tab(workplace: Workplace) -> None:
    """One clip through one model."""
    import gradio

    models = workplace.app.models

    def choices() -> Sequence[Any]:
        model = model_input(workplace, models.embedders)
        return model, *_rate_inputs(model, models)

    def reconstruct(
        clip: str | None,
        model: str | None,
        size: Number,
        steps: Number,
        seams: Seams,
        adaptive: bool,
        share: Number,
        progress: Any = gradio.Progress(),
    ) -> Iterator[Any]:
        def work(job: Job) -> Any:
            coding = _coding(size, steps, seams, None if adaptive else share / 100)
            return shown(workplace.app.reconstruct(_path(clip), [model], coding, job))

        yield from workplace.run(progress, "reconstruct", clip, work)

    buttons, (clip, model, *rate), coding, outputs = clip_tab(workplace, "Reconstruct", choices)
    on_click(buttons, reconstruct, [clip, model, *coding, *rate], outputs, "reconstruct")


def _rate_inputs(model: Any, models: AppModels) -> tuple[Any, Any]:
    """The number of 1D latents, shown for the models that have them."""
    import gradio

    with gradio.Group(visible=model.value in models.adaptive) as group:
        adaptive = gradio.Checkbox(True, label="The number of 1D latents follows the motion")
        share = gradio.Slider(0, 100, 50, step=5, label="1D latents (% of the maximum)", interactive=False)
    model.change(
        lambda name: gradio.Group(visible=name in models.adaptive), [model], [group], api_visibility="private"
    )
    adaptive.change(
        lambda follows: gradio.Slider(interactive=not follows), [adaptive], [share], api_visibility="private"
    )
    return adaptive, share


def interpolate_tab(workplace: Workplace) -> None:
    """One clip at a multiple of its frame rate."""
    import gradio

    def choices() -> Sequence[Any]:
        model = model_input(workplace, workplace.app.models.interpolating)
        return model, gradio.Slider(2, 8, value=2, step=1, label="Multiple of the frame rate")

    def interpolate(
        clip: str | None,
        model: str | None,
        factor: Number,
        size: Number,
        steps: Number,
        seams: Seams,
        progress: Any = gradio.Progress(),
    ) -> Iterator[Any]:
        def work(job: Job) -> Any:
            coding = _coding(size, steps, seams)
            return shown(workplace.app.interpolate(_path(clip), model, int(factor), coding, job))

        yield from workplace.run(progress, "interpolate", clip, work)

    buttons, inputs, coding, outputs = clip_tab(workplace, "Interpolate", choices)
    on_click(buttons, interpolate, [*inputs, *coding], outputs, "interpolate")


def generate_tab(workplace: Workplace) -> None:
    """A video from a prompt, and from an image."""
    import gradio

    models = workplace.app.models
    with gradio.Row():
        with gradio.Column(scale=2, min_width=320):
            prompt = _prompt_input()
            image = _image_input()
            model = model_input(workplace, models.generators, "Generator")
            frames, guidance, steps, seed = _sampling_inputs(workplace)
            buttons = work_buttons("Generate")
        with gradio.Column(scale=3, min_width=320):
            video = gradio.Video(
                label="Video", autoplay=True, loop=True, buttons=["download"], interactive=False, height=360
            )
            sheet = gradio.Image(
                label="Contact sheet",
                show_label=False,  # it would lie over the first frame
                format="png",
                buttons=["download", "fullscreen"],
                interactive=False,
            )
            note = gradio.Markdown(label="Note")

    def generate(
        model: str | None,
        prompt: str,
        image: str | None,
        frames: Number,
        guidance: Number,
        steps: Number,
        seed: Number | None,
        progress: Any = gradio.Progress(),
    ) -> Iterator[Any]:
        def work(job: Job) -> Any:
            wish = Wish(prompt, _path(image), int(frames), float(guidance), int(steps), int(seed or 0))
            return workplace.app.generate(model, wish, job)

        yield from workplace.run(progress, "generate", image, work)

    inputs = [model, prompt, image, frames, guidance, steps, seed]
    on_click(buttons, generate, inputs, [video, sheet, note], "generate")


def _image_input() -> Any:
    """An upload of an image. Its file is read with those of videos, so that a damaged one gets a sentence."""
    import gradio

    image: Any = gradio.Image(
        label="Start from this image (optional)", type="filepath", sources=["upload"], height=180
    )
    image.preprocess = lambda file: None if file is None else file.path
    return image


def _prompt_input() -> Any:
    """A prompt, others to begin with, and the words that captions have."""
    import gradio

    prompt = gradio.Textbox(EXAMPLE, label="Prompt", lines=3, max_length=MAX_PROMPT)
    another = gradio.Button("Another prompt", size="sm")
    another.click(random_prompt, None, [prompt], api_visibility="private")
    with gradio.Accordion("The words of a prompt", open=False):
        rows = [f"| {name.upper()} | {', '.join(words)} |" for name, words in VALUES.items()]
        gradio.Markdown(GRAMMAR.format(rows="\n".join(rows)))
    return prompt


def _sampling_inputs(workplace: Workplace) -> tuple[Any, Any, Any, Any]:
    """Frames, guidance, steps and seed."""
    import gradio

    models, most = workplace.app.models, max(workplace.app.limits.max_frames, 3)
    chunk = models.chunk_frames
    frames = gradio.Slider(
        2, most, min(chunk, most), step=1, label="Frames", info=f"Generated in chunks of {chunk}, and cut"
    )
    guidance = gradio.Slider(1, 10, 4, step=0.5, label="Guidance", info="How strongly it follows the prompt")
    steps = gradio.Slider(2, 60, 30, step=1, label="Denoising steps")
    seed = gradio.Number(0, label="Seed", precision=0)
    return frames, guidance, steps, seed


def compare_tab(workplace: Workplace) -> None:
    """One clip through two models."""
    import gradio

    names = workplace.app.models.embedders

    def choices() -> Sequence[Any]:
        first = model_input(workplace, names, "First model")
        return first, model_input(workplace, names, "Second model", number=1)

    def compare(
        clip: str | None,
        first: str | None,
        second: str | None,
        size: Number,
        steps: Number,
        seams: Seams,
        progress: Any = gradio.Progress(),
    ) -> Iterator[Any]:
        def work(job: Job) -> Any:
            coding = _coding(size, steps, seams)
            return shown(workplace.app.reconstruct(_path(clip), [first, second], coding, job))

        yield from workplace.run(progress, "compare", clip, work)

    buttons, inputs, coding, outputs = clip_tab(workplace, "Compare", choices)
    on_click(buttons, compare, [*inputs, *coding], outputs, "compare")


def _coding(size: Number, steps: Number, seams: Seams, share: float | None = None) -> Coding:
    return Coding(int(size) or None, int(steps), seams, share)


def _path(file: str | None) -> Path | None:
    return None if file is None else Path(file)
