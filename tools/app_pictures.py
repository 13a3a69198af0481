"""Screenshots of `regen app` for docs/app.md: python tools/app_pictures.py [FOLDER].

FOLDER is docs/pictures by default. Needs the extra `app`, selenium, chromium and chromedriver, and the models
of a checkout.
"""

import sys
import time
from base64 import b64decode
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image, ImageStat

from browser import Driver, open_browser, wait_for
from regen.app.limits import Limits
from regen.app.page import EXAMPLE
from regen.app.server import Serving, load_app, running
from regen.pretrained.models import silence_logging

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
PATIENCE = 600.0  # seconds for a model on a busy machine
WIDTH = 1280
LIMIT = 200_000  # bytes of a picture
MIN_DEVIATION = 5.0  # of the values of a channel in a video that is painted
# Left, top, right and bottom of each video that is shown, also in frames.
VIDEO_BOXES = """
const found = [];
const look = (page, left, top) => {
  for (const part of page.querySelectorAll("video, iframe")) {
    const box = part.getBoundingClientRect();
    if (!box.width) continue;
    if (part.tagName === "IFRAME") look(part.contentDocument, left + box.left, top + box.top);
    else found.push([left + box.left, top + box.top, left + box.right, top + box.bottom]);
  }
};
look(document, scrollX, scrollY);
return found;
"""
PROMPT = (
    "two large plain purple triangles move right quickly on a dark background while the camera stays still"
)


def open_tab(driver: Driver, name: str) -> Any:
    """Show a tab, and return its element."""
    _click(driver, f"//button[@role='tab'][normalize-space()='{name}']")

    def visible() -> list[Any]:
        tabs = driver.find_elements("css selector", "[role=tabpanel]")
        return [tab for tab in tabs if tab.is_displayed()]

    return wait_for(visible)[0]


def upload(tab: Any, file: Path) -> None:
    """Give a file to the first upload of a tab, and wait until it is shown."""
    wait_for(lambda: tab.find_elements("css selector", "input[type=file]"))[0].send_keys(str(file))
    wait_for(lambda: tab.find_elements("css selector", "video, img"), PATIENCE)


def choose(tab: Any, label: str, value: str) -> None:
    """Choose from the dropdown with this label."""
    box = tab.find_element("css selector", f"input[aria-label='{label}']")
    box.click()
    path = f"//*[@role='option'][@aria-label='{value}']"
    wait_for(lambda: tab.find_elements("xpath", path))[0].click()


def press(tab: Any, name: str) -> None:
    """Press the button with this text."""
    _click(tab, f".//button[normalize-space()='{name}']")


def _click(place: Any, path: str) -> None:
    """Click an element, whatever lies over it while the page is being built."""
    element = place.find_element("xpath", path)
    element.parent.execute_script("arguments[0].click()", element)


def wait_for_player(driver: Driver, tab: Any, videos: int) -> None:
    """Wait for the players of a tab, and show their middle frame."""
    wait_for(lambda: tab.find_elements("css selector", "iframe"), PATIENCE)
    driver.switch_to.frame(tab.find_element("css selector", "iframe"))
    ready = "return [...document.querySelectorAll('video')].filter((one) => one.readyState >= 2).length"
    wait_for(lambda: driver.execute_script(ready) == videos)
    driver.execute_script("const card = [...cards.values()][0]; card.seek(Math.floor(card.frames / 2))")
    seeking = "return [...document.querySelectorAll('video')].some((one) => one.seeking)"
    wait_for(lambda: not driver.execute_script(seeking), PATIENCE)
    driver.switch_to.default_content()


def screenshot(driver: Driver) -> Image.Image:
    """The whole page."""
    height = driver.execute_script("return document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
    options = {"captureBeyondViewport": True, "clip": clip}
    content = driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"]
    return Image.open(BytesIO(b64decode(content))).convert("RGB")


def are_painted(picture: Image.Image, boxes: Iterable[Sequence[float]]) -> bool:
    """Whether none of the boxes (left, top, right, bottom) is of one colour."""
    parts = (picture.crop((round(a), round(b), round(c), round(d))) for a, b, c, d in boxes)
    return all(max(ImageStat.Stat(part).stddev) > MIN_DEVIATION for part in parts)


def settled_screenshot(driver: Driver, moves: bool) -> Image.Image:
    """A screenshot with a frame in all videos: a busy machine paints them long after they have decoded it.

    Unless a video `moves`, it is one that no longer changes.
    """
    last = screenshot(driver)

    def settled() -> Image.Image | None:
        nonlocal last
        time.sleep(0.5)
        before, last = last, screenshot(driver)
        is_done = (moves or before == last) and are_painted(last, driver.execute_script(VIDEO_BOXES))
        return last if is_done else None

    picture: Image.Image = wait_for(settled, PATIENCE)
    return picture


def save(driver: Driver, path: Path, moves: bool = False) -> None:
    """A screenshot of the whole page as JPEG, small enough for the documentation; `moves`: a video plays."""
    wait_for(lambda: not driver.find_elements("css selector", ".toast-body"))
    picture = settled_screenshot(driver, moves)
    for quality in range(90, 40, -5):
        picture.save(path, quality=quality, optimize=True)
        if path.stat().st_size < LIMIT:
            break
    print(f"{path}: {picture.width}x{picture.height}, {path.stat().st_size:,} bytes")


def take(driver: Driver, folder: Path) -> None:
    """All screenshots, of the page that is open."""
    tab = open_tab(driver, "Reconstruct")
    upload(tab, EXAMPLE)
    press(tab, "Reconstruct")
    wait_for_player(driver, tab, 2)
    save(driver, folder / "app-reconstruct.jpg")
    tab = open_tab(driver, "Interpolate")
    upload(tab, EXAMPLE)
    press(tab, "Interpolate")
    wait_for_player(driver, tab, 2)
    save(driver, folder / "app-interpolate.jpg")
    tab = open_tab(driver, "Generate")
    box = tab.find_element("css selector", "textarea")
    box.clear()
    box.send_keys(PROMPT)
    press(tab, "Generate")
    wait_for(lambda: "network evaluations" in tab.text, PATIENCE)
    wait_for(
        lambda: driver.execute_script("return document.querySelector('video[autoplay]')?.readyState >= 2")
    )
    save(driver, folder / "app-generate.jpg", moves=True)
    tab = open_tab(driver, "Compare")
    upload(tab, EXAMPLE)
    choose(tab, "Second model", "onedva-small")
    press(tab, "Compare")
    wait_for_player(driver, tab, 3)
    save(driver, folder / "app-compare.jpg")


def main(arguments: list[str]) -> None:
    """Start the app and a browser, and take the pictures."""
    folder = Path(arguments[0]) if arguments else PICTURES
    silence_logging()
    app = load_app((), Limits())
    with (
        running(app, Serving()) as address,
        TemporaryDirectory() as profile,
        open_browser(Path(profile), WIDTH) as driver,
    ):
        driver.get(address)
        wait_for(lambda: driver.find_elements("css selector", "[role=tabpanel]"), PATIENCE)
        take(driver, folder)


if __name__ == "__main__":
    main(sys.argv[1:])
