"""`regen app` as a process: a visitor of each tab, a browser, nobody called and nothing left."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_app import LIMITS, make_bad_files, make_clip, tiny_app
from tiny_media import make_image

from app_pictures import open_tab, press, upload, wait_for_player
from browser import BROWSER, DRIVER, open_browser, wait_for

pytest.importorskip("gradio", reason="the extra `app` is not installed: pip install 'regen[app]'")
pytestmark = pytest.mark.integration
TINY = Path(__file__).parents[1] / "tiny"
# The command, with the machines that it looks for written into a file, and a prompt whose work ends only when
# it is cancelled.
COMMAND = """
import os, runpy, socket, time
from regen.app.work import App
generate = App.generate
def generate_or_wait(app, name, wish, job):
    while wish.prompt == "endless":
        job.on_progress(1, 2)
        job.check()
        time.sleep(0.05)
    return generate(app, name, wish, job)
App.generate = generate_or_wait
look_up = socket.getaddrinfo
def recorded(host, *arguments, **options):
    with open(os.environ["HOSTS"], "a") as file:
        file.write(f"{host}\\n")
    return look_up(host, *arguments, **options)
socket.getaddrinfo = recorded
runpy.run_module("regen", run_name="__main__")
"""
OPTIONS = ("--max-frames", str(LIMITS.max_frames), "--max-side", str(LIMITS.max_side))
MATCH = (0, 1, "match")
PATIENCE = 300.0  # seconds on a busy machine


class Site:
    """The address of a running app, the folder of its files, and a visitor."""

    def __init__(self, address: str, temporary: Path, hosts: Path) -> None:
        self.address, self.temporary, self.hosts = address, temporary, hosts
        self.visitor = self.open_visitor()

    def open_visitor(self) -> "subprocess.Popen[str]":
        command = [sys.executable, str(TINY / "app_visitor.py"), self.address]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def visit(self, tab: str, *values: Any) -> dict[str, Any]:
        assert self.visitor.stdin is not None and self.visitor.stdout is not None
        self.visitor.stdin.write(json.dumps([tab, *values]) + "\n")
        self.visitor.stdin.flush()
        return json.loads(self.visitor.stdout.readline())

    def leave(self) -> None:
        """Close the visitor at once; another one comes."""
        self.visitor.kill()
        self.visitor.communicate()
        self.visitor = self.open_visitor()

    def work_folders(self) -> list[str]:
        """The folders of work that is not shown yet."""
        (folder,) = self.temporary.glob("regen-app-*")
        return [path.name for path in folder.iterdir() if path.name != "files"]

    def values(self, tab: str, *values: Any) -> Any:
        outcome = self.visit(tab, *values)
        assert "error" not in outcome, outcome
        return outcome["values"]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    """At the end SIGTERM stops the app, which leaves nothing."""
    temporary = tmp_path_factory.mktemp("temporary")
    hosts = tmp_path_factory.mktemp("hosts") / "hosts.txt"
    with tiny_app(tmp_path_factory.mktemp) as app:
        names = [*app.models.embedders[:2], *app.models.generators[:2]]
        models = [word for name in names for word in ("--model", name)]
        environment = {"TMPDIR": str(temporary), "HOSTS": str(hosts), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-c", COMMAND, "app", "--device", "cpu", "--dtype", "fp32"]
        process = subprocess.Popen(
            [*command, "--max-upload", "200kB", *OPTIONS, *models],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            text=True,
        )
    try:
        assert process.stdout is not None
        address = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert address is not None
        site = Site(address[0], temporary, hosts)
        yield site
        site.visitor.communicate("")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE)
        assert (process.returncode, output) == (0, "Stopped; its files are deleted.\n")
        assert [path.name for path in temporary.glob("regen-app-*")] == []
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return str(make_clip(tmp_path_factory.mktemp("clips")))


def test_each_tab(site, clip, tmp_path):
    player, table, files = site.values("reconstruct", [clip], "tiny-regen", *MATCH, True, 50)
    assert player.startswith("<iframe") and table["headers"] == ["", "tiny-regen"]
    assert [Path(file["path"]).name for file in files] == ["reconstruction-tiny-regen.mp4", "comparison.mp4"]
    assert all(Path(file["path"]).is_relative_to(site.temporary) for file in files)
    assert site.values("interpolate", [clip], "tiny-regen", 2, *MATCH)[1]["headers"][1] == "2× by tiny-regen"
    assert len(site.values("compare", [clip], "tiny-regen", "tiny-onedva", *MATCH)[2]) == 2
    image = str(make_image(tmp_path / "first.png"))
    video, _, text = site.values("generate", "tiny-text", "a red ball", [image], 5, 2, 2, 0)
    assert "generated.mp4" in str(video) and text.startswith("5 frames")
    assert site.work_folders() == [], "finished work has no folder any more"


def test_bad_input_gets_one_sentence(site, clip, tmp_path):
    bad = make_bad_files(tmp_path)
    for name, words in {
        "wrong": "notes.mp4 can't be read as a video",
        "long": "long.mp4 (0.8 seconds) has 25 frames, and at most 24",
        "large": "large.mp4 has 80x48 pixels, and at most 64",
    }.items():
        error = site.visit("reconstruct", [str(bad[name])], "tiny-regen", *MATCH, True, 50)["error"]
        assert words in error and error.endswith(".") and "\n" not in error
    heavy = site.visit("reconstruct", [str(bad["heavy"])], "tiny-regen", *MATCH, True, 50)
    assert "exceeds" in heavy["error"] or "413" in heavy["error"]
    error = site.visit("reconstruct", [clip], "owner/name", *MATCH, True, 50)["error"]
    assert error.startswith("There is no model owner/name here; choose one of ")
    error = site.visit("generate", "tiny-text", "a", [str(bad["wrong"])], 5, 2, 2, 0)["error"]
    assert error == "notes.mp4 is not an image; give one such as a PNG or a JPEG."
    assert "prompt is empty" in site.visit("generate", "tiny-text", " ", None, 5, 2, 2, 0)["error"]


ENDLESS = ("tiny-text", "endless", None, 5, 2, 2, 0)
SHORT = ("tiny-text", "a red ball", None, 5, 2, 2, 0)


def test_cancelled_work_ends_and_the_next_runs(site):
    """One piece that runs, and one that waits behind it."""
    assert site.visit("cancel generate", *ENDLESS) == {"values": "cancelled"}
    wait_for(lambda: site.work_folders() == [], PATIENCE)
    assert site.values("generate", *SHORT)[2].startswith("5 frames")


def test_the_work_of_a_visitor_who_leaves_ends(site):
    assert site.visit("start generate", *ENDLESS) == {"values": "started"}
    assert len(site.work_folders()) == 1
    site.leave()
    assert site.values("generate", *SHORT)[2].startswith("5 frames")
    assert site.work_folders() == []


@pytest.mark.skipif(not (BROWSER and DRIVER), reason="chromium and chromedriver are not installed")
def test_in_a_browser(site, clip, tmp_path):
    """A clip is reconstructed and played; a wrong file gets a message; no other machine is called."""
    pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    bad = make_bad_files(tmp_path)
    with open_browser(tmp_path / "browser") as driver:
        driver.get(site.address)
        wait_for(lambda: driver.find_elements("css selector", "[role=tabpanel]"), PATIENCE)
        tab = open_tab(driver, "Reconstruct")
        upload(tab, Path(clip))
        press(tab, "Reconstruct")
        wait_for_player(driver, tab, 2)
        assert {"PSNR", "SSIM", "rate", "decoding"} <= set(tab.text.split())
        tab = open_tab(driver, "Compare")
        upload(tab, bad["wrong"])
        press(tab, "Compare")
        toasts = "[data-testid=toast-body], .toast-body"
        wait_for(lambda: driver.find_elements("css selector", toasts), PATIENCE)
        assert "notes.mp4 can't be read as a video" in driver.find_element("css selector", toasts).text
        events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
        sent = [
            one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"
        ]
        assert site.address in sent
        assert [url for url in sent if url.startswith("http") and not url.startswith(site.address)] == []


def test_no_other_machine_is_looked_for(site):
    assert {*site.hosts.read_text().split()} <= {"127.0.0.1", "localhost", "::1"}
