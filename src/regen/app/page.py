"""The page of the app: its tabs, and what they share."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

from regen.app.work import App, CancelledError, Job, Result
from regen.console import error_message
from regen.runtime import release_memory

TITLE = "regen"
INTRODUCTION = """# regen
Video embedders with a generative decoder: compact latents, from which the video is generated again, in one
step or many, at any frame rate. Videos stay on the machine that runs this page, and are deleted after the
session."""
EXAMPLE = Path(__file__).parent / "butterfly.mp4"
CREDIT = "Example: *Big Buck Bunny*, © 2008 Blender Foundation, [CC BY 3.0](https://creativecommons.org/licenses/by/3.0/)"
SIZES = [("128 pixels", 128), ("192 pixels", 192), ("256 pixels", 256), ("as it is", 0)]
SEAMS = ["extend", "match", "none"]
EMPTY = '<p class="hint">The videos will be here.</p>'
PATIENCE = 0.5  # seconds between two looks at whether a visitor still waits for the work before theirs
CLEANING = (600, 3600)  # seconds: how often, and how old files are then
CSS = """
.gradio-container { max-width: 1240px !important; }
.player iframe { width: 100%; border: 0; display: block; }
.player .hint { padding: 3rem 1rem; text-align: center; opacity: 0.6; }
footer, .clip [aria-label^="Trim"] { display: none !important; }
"""


@dataclass(frozen=True)
class Workplace:
    """The app, and the folder in which each piece of work has a folder of its own until it is shown."""

    app: App
    folder: Path
    turn: Lock = field(default_factory=Lock)
    """Held by the work that computes, to its end even when gradio has given it up."""

    def run(
        self, progress: Any, description: str, clip: str | None, work: Callable[[Job], Any]
    ) -> Iterator[Any]:
        """Yield the result of `work`, then delete its files; stop early when nobody waits for it any more.

        Errors that users can mend are shown as one sentence.
        """
        import gradio

        is_awaited = _watch_visitor()

        def check() -> None:
            if not is_awaited():
                raise CancelledError

        def advance(done: int, total: int | None) -> None:
            progress((done, total), desc=description, unit="frames")

        def warn(text: str) -> None:
            gradio.Warning(_named(text, clip))

        message, result = None, None
        with TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True) as folder:
            try:
                while not self.turn.acquire(timeout=PATIENCE):
                    check()
                try:
                    result = work(Job(Path(folder), advance, warn, check))
                finally:
                    self.turn.release()
            except CancelledError:
                pass
            except (ValueError, OSError, MemoryError) as error:
                message = _named(error_message(error), clip)
            release_memory()  # outside `except`, which keeps tensors alive
            if message is not None:
                raise gradio.Error(message, duration=None, print_exception=False)
            if result is not None:  # of cancelled work there is none, and nobody to tell
                yield result


def _watch_visitor() -> Callable[[], bool]:
    """Tells whether the event that runs is awaited: not after its cancellation or the end of its page."""
    from gradio.context import LocalContext

    blocks, number = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    if blocks is None or number is None:
        return lambda: True

    def is_awaited() -> bool:
        event = blocks._queue.event_ids_to_events.get(number)
        return event is not None and event.alive

    return is_awaited


def _named(text: str, path: str | None) -> str:
    """The text, without markup of its own, with the name of an upload instead of its path."""
    named = text if path is None else text.replace(path, Path(path).name)
    return escape(named, quote=False)


def build_page(workplace: Workplace) -> Any:
    """The whole page, a `gradio.Blocks`."""
    import gradio

    from regen.app.tabs import compare_tab, generate_tab, interpolate_tab, reconstruct_tab

    with gradio.Blocks(title=TITLE, analytics_enabled=False, delete_cache=CLEANING) as page:
        gradio.Markdown(INTRODUCTION)
        for name, tab in (
            ("Reconstruct", reconstruct_tab),
            ("Interpolate", interpolate_tab),
            ("Generate", generate_tab),
            ("Compare", compare_tab),
        ):
            with gradio.Tab(name):
                tab(workplace)
    return page.queue(default_concurrency_limit=1, max_size=20)


def clip_input(workplace: Workplace) -> Any:
    """An upload of a clip, with the example and the limits below."""
    import gradio

    limits = workplace.app.limits
    clip = gradio.Video(label="Clip", sources=["upload"], height=260, elem_classes="clip")
    gradio.Examples([[str(EXAMPLE)]], [clip], label="Example")
    gradio.Markdown(
        f"At most {limits.max_frames} frames, {limits.max_side} pixels a side as computed, "
        f"{limits.max_upload}. {CREDIT}."
    )
    return clip


def model_input(workplace: Workplace, names: tuple[str, ...], label: str = "Model", number: int = 0) -> Any:
    """A choice among names of models."""
    import gradio

    choices = workplace.app.models.choices(names)
    chosen = names[min(number, len(names) - 1)] if names else None
    return gradio.Dropdown(choices, value=chosen, label=label, allow_custom_value=True)


def coding_inputs() -> tuple[Any, Any, Any]:
    """Size, steps and seams."""
    import gradio

    size = gradio.Radio(SIZES, value=192, label="Short side")
    steps = gradio.Slider(1, 8, value=1, step=1, label="Denoising steps", info="1 is closest to the original")
    seams = gradio.Radio(
        SEAMS, value="extend", label="Seams between chunks", info="extend: latent extension, from 2 steps on"
    )
    return size, steps, seams


def result_outputs() -> tuple[Any, Any, Any]:
    """The players, the table of figures and the files."""
    import gradio

    player = gradio.HTML(EMPTY, elem_classes="player", label="Player")
    table = gradio.Dataframe(headers=[""], label="Figures", interactive=False, wrap=True)
    files = gradio.File(label="Files", file_count="multiple", interactive=False)
    return player, table, files


def shown(result: Result) -> tuple[str, dict[str, Any], list[str]]:
    """The values of `result_outputs`."""
    names = dict.fromkeys(name for figures in result.figures.values() for name in figures)
    rows = [[name, *(figures[name] for figures in result.figures.values())] for name in names]
    frame = f'<iframe title="Player" srcdoc="{escape(result.page)}" allow="fullscreen" height="460"></iframe>'
    return frame, {"headers": ["", *result.figures], "data": rows}, result.files


def work_buttons(name: str) -> tuple[Any, Any]:
    """The button that starts the work of a tab, and the one that stops it."""
    import gradio

    with gradio.Row():
        return gradio.Button(name, variant="primary", scale=3), gradio.Button("Cancel", scale=1)


def clip_tab(
    workplace: Workplace, name: str, choices: Callable[[], Sequence[Any]]
) -> tuple[tuple[Any, Any], list[Any], list[Any], list[Any]]:
    """The buttons, [clip, *choices], the options of coding, and the outputs of a tab for clips."""
    import gradio

    with gradio.Row():
        with gradio.Column(scale=2, min_width=320):
            inputs = [clip_input(workplace), *choices()]
            coding = coding_inputs()
            buttons = work_buttons(name)
        with gradio.Column(scale=3, min_width=320):
            outputs = result_outputs()
    return buttons, inputs, [*coding], [*outputs]


def on_click(
    buttons: tuple[Any, Any],
    work: Callable[..., Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    name: str,
) -> None:
    """Run `work` for the first button, one piece at a time for the whole app; `name` is that of the API.

    The second button cancels it, whether it runs or waits.
    """
    start, cancel = buttons
    event = start.click(
        work,
        inputs,
        outputs,
        api_name=name,
        concurrency_limit=1,
        concurrency_id="work",
        scroll_to_output=True,
    )
    cancel.click(None, None, None, cancels=[event])
