"""The page without a server: what each button runs, refusals, and folders that are gone."""

import asyncio
import gc
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_app import FRAMES, make_bad_files, make_clip, tiny_app

from app_pictures import are_painted
from regen.app import server
from regen.app.page import EXAMPLE, SIZES, Workplace, build_page
from regen.app.server import Serving, check_address, require_gradio
from regen.app.work import App

gradio = pytest.importorskip("gradio", reason="the extra `app` is not installed: pip install 'regen[app]'")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> Iterator[App]:
    with tiny_app(tmp_path_factory.mktemp) as app:
        yield app


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return str(make_clip(tmp_path_factory.mktemp("clips")))


class Page:
    """The page; a call presses the button of a tab, with these inputs."""

    def __init__(self, app: App, folder: Path) -> None:
        self.blocks: Any = build_page(Workplace(app, folder))

    def __call__(self, tab: str, *values: Any) -> Any:
        (button,) = [function for function in self.blocks.fns.values() if function.api_name == tab]
        assert len(values) == len(button.inputs)
        work = button.fn(*values, lambda *arguments, **options: None)
        shown = next(work)
        assert next(work, None) is None
        return shown


@contextmanager
def without_resource_warnings() -> Iterator[None]:
    """What the block leaves behind is collected; gradio leaves event loops open when it builds a page."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


@pytest.fixture(scope="module")
def page(app, tmp_path_factory) -> Iterator[Page]:
    """At the end nothing is in the folder of the app."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("files")))
        with without_resource_warnings():
            page = Page(app, folder)
        yield page
    assert list(folder.iterdir()) == []
    with without_resource_warnings():
        page.blocks = None
        asyncio.set_event_loop(None)


def test_reconstruct(page, clip):
    player, table, files = page("reconstruct", clip, "tiny-regen", 0, 1, "match", True, 50)
    assert player.startswith("<iframe") and "clip.mp4" in player
    assert table["headers"] == ["", "tiny-regen"]
    assert [row[0] for row in table["data"]][:4] == ["PSNR", "SSIM", "compression", "rate"]
    assert [Path(file).name for file in files] == ["reconstruction-tiny-regen.mp4", "comparison.mp4"]


def test_reconstruct_at_a_rate(page, clip):
    rates = []
    for adaptive, share in ((False, 0), (False, 100), (True, 0), (True, 100)):
        table = page("reconstruct", clip, "tiny-onedva", 0, 1, "none", adaptive, share)[1]
        rates.append(dict(table["data"])["rate"])
    assert rates[0] != rates[1] and rates[2] == rates[3]


def test_interpolate(page, clip):
    player, table, _ = page("interpolate", clip, "tiny-regen", 2, 0, 2, "extend")
    assert f"{2 * FRAMES} frames" in player and table["headers"] == ["", "2× by tiny-regen"]


def test_generate(page):
    video, sheet, text = page("generate", "tiny-text", "a red ball", None, 5, 2.0, 2, 0)
    assert Path(video).name == "generated.mp4" and Path(sheet).name == "contact-sheet.png"
    assert text.startswith("5 frames")


def test_compare(page, clip):
    player, table, files = page("compare", clip, "tiny-regen", "tiny-onedva", 0, 1, "extend")
    assert table["headers"] == ["", "tiny-regen", "tiny-onedva"] and len(files) == 2
    assert player.count("id=&quot;video-") == 3


def test_screenshots_wait_for_frames_that_are_painted():
    picture = Image.new("RGB", (60, 40), (128, 128, 128))
    picture.paste(Image.effect_noise((20, 20), 60).convert("RGB"), (0, 0))
    noisy, grey = (0.0, 0.0, 20.0, 20.0), (30.0, 10.0, 50.4, 30.2)
    assert are_painted(picture, [noisy]) and are_painted(picture, [])
    assert not are_painted(picture, [noisy, grey])


def test_bad_input_gets_one_sentence(page, clip, tmp_path):
    bad = make_bad_files(tmp_path)
    cases = [
        (("reconstruct", None, "tiny-regen", 0, 1, "match", True, 50), "There is no clip yet"),
        (("compare", clip, "tiny-regen", "tiny-regen", 0, 1, "match"), "Both models are the same"),
        (("interpolate", clip, "nothing", 2, 0, 1, "match"), "There is no model nothing here"),
        (("interpolate", clip, "tiny-regen", 4, 0, 1, "match"), "clip.mp4 at 4 times its frame rate has 28"),
        (("generate", "tiny-text", "", None, 5, 2, 2, 0), "The prompt is empty"),
        (("generate", "tiny-class", "a dog", None, 5, 2, 2, 0), "no class 'a dog' among 16"),
    ]
    for file in bad.values():
        cases.append((("reconstruct", str(file), "tiny-regen", 0, 1, "match", True, 50), file.name))
        cases.append((("generate", "tiny-text", "a", str(file), 5, 2, 2, 0), file.name))
    for press, words in cases:
        with pytest.raises(gradio.Error) as error:
            page(*press)
        message = str(error.value.message)
        assert words in message and message.endswith(".") and "\n" not in message
        assert str(tmp_path) not in message, "visitors do not see where files are"


def test_unusual_prompts_get_a_warning(page, monkeypatch):
    notes: list[str] = []
    monkeypatch.setattr(gradio, "Warning", notes.append)
    page("generate", "tiny-text", "a " * 30, None, 4, 2, 2, 0)
    assert "reads 24" in " ".join(notes) and "first 4 kept" in " ".join(notes)


def test_the_api_has_the_four_buttons(page):
    """One piece of work runs at a time, and gradio's analytics are off."""
    public = [one for one in page.blocks.fns.values() if one.api_visibility == "public"]
    assert {one.api_name for one in public} == {"reconstruct", "interpolate", "generate", "compare"}
    assert {(one.concurrency_limit, one.concurrency_id) for one in public} == {(1, "work")}
    assert page.blocks.analytics_enabled is False
    assert [size for _, size in SIZES] == [128, 192, 256, 0]


def test_the_next_work_begins_when_the_one_before_has_ended(app, tmp_path, monkeypatch):
    """Even if gradio has given that up; whoever stops waiting leaves the line."""
    workplace, awaited = Workplace(app, tmp_path), True
    monkeypatch.setattr("regen.app.page._watch_visitor", lambda: lambda: awaited)
    monkeypatch.setattr("regen.app.page.PATIENCE", 0.01)

    def run(work: Any) -> Any:
        return workplace.run(lambda *arguments, **options: None, "work", None, work)

    def cancelled(job: Any) -> None:
        nonlocal awaited
        awaited = False
        assert workplace.turn.locked() and job.folder.is_dir()
        job.check()

    assert list(run(cancelled)) == []
    with workplace.turn:
        assert list(run(lambda job: pytest.fail("it was not its turn"))) == []
    assert list(tmp_path.iterdir()) == [] and not workplace.turn.locked()
    awaited = True
    assert next(run(lambda job: 5)) == 5

    def wrong(job: Any) -> None:
        raise ValueError("There is no <b>colour</b>.")

    with pytest.raises(gradio.Error, match="no &lt;b&gt;colour&lt;/b&gt;"):
        next(run(wrong))


def test_the_rate_is_shown_for_models_that_have_one(page):
    groups = [one for one in page.blocks.blocks.values() if isinstance(one, gradio.Group)]
    assert [group.visible for group in groups] == [True], "the first model, tiny-onedva, has one"
    (change,) = [one for one in page.blocks.fns.values() if one.outputs == groups]
    assert [change.fn(name).visible for name in ("tiny-onedva", "tiny-regen")] == [True, False]


def test_the_example_is_that_of_the_checkout():
    assert EXAMPLE.read_bytes() == (ROOT / "examples" / "butterfly.mp4").read_bytes()


def test_an_address_in_use_or_elsewhere_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"127\.0\.0\.1:{port} is in use"):
            check_address(Serving(port=port))
    check_address(Serving())
    with pytest.raises(ValueError, match=r"192\.0\.2\.1 is in use, or no address of this machine"):
        check_address(Serving("192.0.2.1"))
    with pytest.raises(ValueError, match="1 to 65535, got 70000"):
        check_address(Serving(port=70_000))


def test_without_gradio_there_is_one_sentence(monkeypatch):
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"gradio; install it by: pip install 'regen\[app\]'"):
        require_gradio()
