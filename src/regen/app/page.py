"""The page of the app: its tabs, and what they share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from regen.app.work import App, Job, Result
from regen.console import error_message

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

    @contextmanager
    def job(self, progress: Any, description: str, clip: str | None) -> Iterator[Job]:
        """A folder for one piece of work; errors that users can mend are shown as one sentence."""
        import gradio

        def advance(done: int, total: int | None) -> None:
            progress((done, total), desc=description, unit="frames")

        def warn(text: str) -> None:
            gradio.Warning(_named(text, clip))

        with TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True) as folder:
            try:
                yield Job(Path(folder), advance, warn)
            except (ValueError, OSError, MemoryError) as error:
                message = _named(error_message(error), clip)
                raise gradio.Error(message, duration=None, print_exception=False) from None


def _named(text: str, path: str | None) -> str:
    """The text with the name of an upload instead of its path."""
    return text if path is None else text.replace(path, Path(path).name)


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


def on_click(button: Any, work: Callable[..., Any], inputs: list[Any], outputs: list[Any], name: str) -> None:
    """Run `work` for the button, one piece of work at a time for the whole app; `name` is that of the API."""
    button.click(
        work,
        inputs,
        outputs,
        api_name=name,
        concurrency_limit=1,
        concurrency_id="work",
        scroll_to_output=True,
    )
