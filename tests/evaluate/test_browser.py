"""The report page in a real browser: synchronised videos, a sortable table, and no request."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tiny_report import CLIPS, FRAMES, LENGTHS, RATE, make_report_folder

from browser import BROWSER, DRIVER, Driver, open_browser, wait_for
from regen.evaluate.benchmark.report import write_report

pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="chromium and chromedriver are not installed"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Driver]:
    with open_browser(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    return write_report(make_report_folder(tmp_path_factory.mktemp("report")))


@pytest.fixture
def opened(browser, page) -> Iterator[Driver]:
    """The page, freshly opened; at the end it has logged no error and requested nothing."""
    with visit(browser, page) as driver:
        yield driver


@contextmanager
def visit(browser: Driver, page: Path) -> Iterator[Driver]:
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)  # empties it
    browser.get(page.as_uri())
    yield browser
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    urls = [params["request"]["url"] for params in sent]
    assert urls[0] == page.as_uri()
    assert [url for url in urls[1:] if not url.startswith("blob:")] == []


def every(driver: Driver, selector: str, expression: str, root: str = "document") -> list[Any]:
    """The value of an expression of `e` for each element of a selector, read at one moment."""
    return driver.execute_script(
        f"return [...{root}.querySelectorAll(arguments[0])].map((e) => {expression})", selector
    )


def videos(driver: Driver, name: str) -> list[Any]:
    """A property of all videos of the first card."""
    return every(driver, "video", f"e.{name}", "document.querySelector('.card')")


def captions(driver: Driver, selector: str = "figcaption strong") -> list[str]:
    return every(driver, selector, "e.innerText", "document.querySelector('.card')")


def click(driver: Driver, selector: str, index: int = 0) -> None:
    driver.find_elements(By.CSS_SELECTOR, selector)[index].click()


def show_players(driver: Driver) -> None:
    driver.execute_script("document.querySelector('.card').scrollIntoView()")
    wait_for(lambda: len(ready := videos(driver, "readyState")) == 4 and min(ready) >= 2)


def column(driver: Driver, name: str) -> list[str]:
    headings = every(driver, "#summary thead th", "e.innerText.split('\\n')[0]")
    rows = every(driver, "#summary tbody tr", "[...e.cells].map((c) => c.innerText)")
    return [row[headings.index(name)] for row in rows]


def heading(driver: Driver, name: str) -> Any:
    return driver.find_element(By.XPATH, f"//table[@id='summary']//th[button[starts-with(., '{name}')]]")


def test_table_sorts_both_ways(opened):
    psnr = [float(text) for text in column(opened, "PSNR")]
    assert psnr == sorted(psnr, reverse=True), "the best stands first to begin with"
    assert heading(opened, "PSNR").get_attribute("aria-sort") == "descending"
    names = column(opened, "Model")
    heading(opened, "PSNR").find_element(By.TAG_NAME, "button").click()
    assert [float(text) for text in column(opened, "PSNR")] == psnr[::-1]
    assert column(opened, "Model") == names[::-1]
    assert heading(opened, "PSNR").get_attribute("aria-sort") == "ascending"
    heading(opened, "Temporal").find_element(By.TAG_NAME, "button").click()
    errors = [float(text) for text in column(opened, "Temporal MAE")]
    assert errors == sorted(errors), "the lowest error first"
    assert heading(opened, "PSNR").get_attribute("aria-sort") is None
    for _ in range(2):
        heading(opened, "Seams").find_element(By.TAG_NAME, "button").click()
        assert column(opened, "Seams")[-1].startswith("absent"), "what is absent stands last either way"


def test_table_marks_the_best_and_explains_what_is_absent(opened):
    best = opened.find_elements(By.CSS_SELECTOR, "#summary tbody tr:first-child b")
    assert "33.00" in [one.text for one in best]
    cells = opened.find_elements(By.CSS_SELECTOR, "#summary td.absent")
    assert cells[0].get_attribute("title") == "LPIPS: no weights were given"
    notes = opened.find_element(By.ID, "notes").text
    assert "LPIPS: no weights were given" in notes and "FVD: three clips are too few" in notes


def test_plots_have_their_points(opened):
    wait_for(lambda: len(every(opened, "#plots svg", "0")) == 2)
    markers = every(opened, "#plots svg", "e.querySelectorAll('.marker').length")
    assert markers == [3, 2], "best steps of three models; two step counts of one"
    assert every(opened, "svg .label", "e.textContent") == ["lab/other", "tiny", "tiny-4x"]


def test_distances_are_plotted_against_the_nominal_factor(browser, tmp_path):
    """PSNR and Fréchet distances of every system against compression and steps (REGEN's Figures 12 and 7)."""
    folder = make_report_folder(tmp_path, frames=0)
    summary = json.loads((folder / "summary.json").read_text())
    for row in summary:
        row["fvd"] = 10.0 * row["steps"] if row["model"] == "tiny-4x" else 50.0
        row |= {"frechet_frames": 300.0, "frechet_differences": 20.0 + row["steps"]}
    (folder / "summary.json").write_text(json.dumps(summary))
    with visit(browser, write_report(folder)) as opened:
        wait_for(lambda: len(every(opened, "#plots svg", "0")) == 7)
        titles = every(opened, "#plots figcaption b", "e.textContent")
        assert titles == [
            "PSNR (dB) against compression",
            "FVD against compression",
            "FD frames against compression",
            "PSNR (dB) against steps",
            "FVD against steps",
            "FD frames against steps",
            "FD differences against steps",
        ]
        axes = every(opened, "#plots svg .name", "e.textContent")
        assert axes == ["nominal compression factor r"] * 3 + ["steps"] * 4
        texts = every(opened, "#plots svg", "[...e.querySelectorAll('.marker')].map((m) => m.textContent)")
        assert "tiny-4x, 48 × 64, 1 step: 10.00 FVD at 43.2" in texts[1] and len(texts[1]) == 3
        assert "tiny-4x, 48 × 64, 1 step: 31.00 dB at 43.2" in texts[0]
        assert texts[6] == [f"tiny-4x, 48 × 64, {n}: 2{n[0]}.00 FD at {n[0]}" for n in ("1 step", "4 steps")]


def test_lengths_of_a_model_are_one_line_and_the_adaptive_one_a_star(browser, tmp_path):
    folder = make_report_folder(tmp_path, LENGTHS, CLIPS[:1], frames=0)
    with visit(browser, write_report(folder)) as opened:
        wait_for(lambda: opened.find_elements(By.CSS_SELECTOR, "#plots svg") != [])
        points = every(opened, "#plots .line", "e.getAttribute('points').split(' ').length")
        assert points == [1, 3, 2, 1, 2], "adaptive, fixed, target, other, tiny"
        lengths = ["dva-4x, adaptive", "dva-4x, fixed length", "dva-4x, target PSNR"]
        assert sorted(every(opened, "svg .label", "e.textContent")) == [*lengths, "other@25%", "tiny"]
        marker = "[e.textContent.split(',')[0], e.style.fill, e.getAttribute('d').split('L').length]"
        markers = every(opened, ".marker", marker)
        colours = {name.split("@")[0].split("-")[0]: fill for name, fill, _ in markers}
        assert len({*colours.values()}) == len(colours) == 3
        assert {fill for name, fill, _ in markers if name.startswith("dva")} == {colours["dva"]}
        assert [name for name, _, corners in markers if corners == 10] == ["dva-4x"], "it alone is a star"


def test_players_keep_step(opened):
    assert opened.find_element(By.CSS_SELECTOR, ".card h3").text == "hard.mp4", "the worst clip stands first"
    show_players(opened)
    click(opened, ".card .play")
    wait_for(lambda: min(videos(opened, "currentTime")) > 0.5)
    assert not any(videos(opened, "paused"))
    times = videos(opened, "currentTime")
    assert max(times) - min(times) < 2 / RATE
    click(opened, ".card .play")  # pauses
    assert all(videos(opened, "paused"))
    wait_for(lambda: not any(videos(opened, "seeking")))
    times = videos(opened, "currentTime")
    assert max(times) - min(times) < 0.01 and times[0] > 0.5
    time.sleep(0.2)
    assert videos(opened, "currentTime") == times


def test_players_loop_and_slow_down(opened):
    show_players(opened)
    opened.execute_script(
        "const speed = document.querySelectorAll('#choices select')[3];"
        "speed.value = '0.5'; speed.dispatchEvent(new Event('change'))"
    )
    opened.execute_script("[...cards.values()][0].seek(44)")
    click(opened, ".card .play")
    wait_for(lambda: 0.2 < max(videos(opened, "currentTime")) < 1.0)
    assert not any(videos(opened, "paused"))
    assert videos(opened, "playbackRate")[0] == 0.5
    times = videos(opened, "currentTime")
    assert max(times) - min(times) < 2 / RATE
    opened.find_element(By.ID, "loop").click()
    opened.execute_script("[...cards.values()][0].step(44 - [...cards.values()][0].frame)")
    click(opened, ".card .play")
    wait_for(lambda: all(videos(opened, "paused")))
    assert videos(opened, "currentTime") == pytest.approx([(FRAMES - 0.5) / RATE] * 4, abs=0.02)


def test_scrubber_and_keys_move_all(opened):
    show_players(opened)
    scrubber = opened.find_element(By.CSS_SELECTOR, ".card input[type=range]")
    opened.execute_script("arguments[0].value = 30; arguments[0].dispatchEvent(new Event('input'))", scrubber)
    wait_for(lambda: not any(videos(opened, "seeking")))
    assert videos(opened, "currentTime") == pytest.approx([30.5 / RATE] * 4, abs=0.002)
    card = opened.find_element(By.CSS_SELECTOR, ".card")
    card.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    wait_for(lambda: not any(videos(opened, "seeking")))
    assert videos(opened, "currentTime") == pytest.approx([31.5 / RATE] * 4, abs=0.002)
    assert opened.find_element(By.CSS_SELECTOR, ".card output").text == f"32 / {FRAMES}"
    card.send_keys(Keys.SPACE)
    wait_for(lambda: not any(videos(opened, "paused")))
    card.send_keys(Keys.SPACE)
    assert all(videos(opened, "paused"))


def test_choices_change_what_is_shown(opened):
    assert captions(opened) == ["original", "tiny-4x, 1 step", "tiny-8x", "lab/other"]
    metrics = "28.00 dB · SSIM 0.700 · seams 1.10 · 54.0× compression"
    assert captions(opened, "figcaption")[1].splitlines() == ["tiny-4x, 1 step", metrics]
    opened.find_elements(By.CSS_SELECTOR, "#choices select")[0].send_keys("4")
    assert captions(opened)[1] == "tiny-4x, 4 steps"
    opened.find_elements(By.CSS_SELECTOR, "#choices select")[1].send_keys("by name")
    assert opened.find_element(By.CSS_SELECTOR, ".card h3").text == "easy.mp4"
    opened.find_elements(By.CSS_SELECTOR, "#choices select")[2].send_keys("A over B")
    assert captions(opened) == ["tiny-4x, 4 steps", "tiny-8x"]
    opened.execute_script("document.querySelector('.card').scrollIntoView()")
    wait_for(lambda: len(videos(opened, "readyState")) == 2)
    click(opened, "#choices fieldset input")
    assert captions(opened) == ["lab/other", "tiny-8x"], "A was left out, B stays"


def test_click_enlarges_the_same_spot_of_all(opened):
    show_players(opened)
    click(opened, ".card .frame")
    scale, card = "getComputedStyle(e).transform", "document.querySelector('.card')"
    assert every(opened, "video", scale, card) == ["matrix(3, 0, 0, 3, 0, 0)"] * 4
    opened.find_element(By.CSS_SELECTOR, ".card").send_keys(Keys.ESCAPE)
    assert set(every(opened, "video", scale, card)) == {"matrix(1, 0, 0, 1, 0, 0)"}


def test_only_players_near_the_screen_hold_videos(browser, tmp_path):
    names = [f"clip{number:02}.mp4" for number in range(20)]
    page = write_report(make_report_folder(tmp_path, [("a", "48x64", 1, 30.0)], names, frames=2))
    with visit(browser, page) as opened:
        opened.execute_script("document.querySelector('.card').scrollIntoView()")
        wait_for(lambda: videos(opened, "readyState") != [])
        loaded = "e.querySelectorAll('video').length"
        assert sum(every(opened, ".card", loaded)) < 20
        opened.execute_script("document.querySelectorAll('.card')[19].scrollIntoView()")
        wait_for(lambda: every(opened, ".card", loaded)[19] == 2)
        wait_for(lambda: every(opened, ".card", loaded)[0] == 0)


def test_page_of_one_model_without_videos(browser, tmp_path):
    clip = '<b>&"x.mp4'
    page = write_report(make_report_folder(tmp_path, [("<i>a</i>", "48x64", 1, 30.0)], [clip], frames=0))
    with visit(browser, page) as opened:
        assert opened.find_element(By.CSS_SELECTOR, ".card h3").text == clip
        assert opened.find_element(By.CSS_SELECTOR, ".card .bar").text == "No videos were recorded."
        assert opened.find_element(By.CSS_SELECTOR, "#title").text == "Reconstruction: <i>a</i>"
        assert column(opened, "Model") == ["<i>a</i>"]


def test_narrow_page_does_not_scroll_sideways(opened):
    size = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        wait_for(lambda: opened.execute_script("return innerWidth") == 360)
        assert opened.execute_script("return document.documentElement.scrollWidth") == 360
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
