"""Inputs that are no files: pipes, standard input, addresses."""

import io
import os
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from regen.media.files import MissingFileError, VideoError
from regen.media.reader import VideoReader
from regen.media.spool import spooled


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


CONTENT = bytes(range(256)) * 1000  # more than a pipe holds


def test_a_file_is_used_as_it_is(tmp_path: Path) -> None:
    for path in (tmp_path / "a.mp4", tmp_path):
        with spooled(path) as found:
            assert found == path


def test_a_named_pipe_is_copied(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    writer = threading.Thread(target=(tmp_path / "a.mp4").write_bytes, args=(CONTENT,))
    writer.start()
    with spooled(tmp_path / "a.mp4") as found:
        assert (found.read_bytes(), found.suffix) == (CONTENT, ".mp4")
    writer.join()
    assert not found.exists()


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_standard_input_is_copied(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(CONTENT)))
    with spooled(Path(name)) as found:
        assert found.read_bytes() == CONTENT


def test_an_address_is_copied_or_named_in_full() -> None:
    with fsspec.open("memory://folder/a.mp4", "wb") as file:
        file.write(CONTENT)
    with spooled(Path("memory://folder/a.mp4")) as found:
        assert (found.read_bytes(), found.suffix) == (CONTENT, ".mp4")
    with (
        pytest.raises(MissingFileError, match="memory://folder/b.mp4"),
        spooled(Path("memory://folder/b.mp4")),
    ):
        pass


def test_the_address_of_a_file_is_its_path(tmp_path: Path) -> None:
    with spooled(Path((tmp_path / "a b.mp4").as_uri())) as found:
        assert found == tmp_path / "a b.mp4"


def test_an_address_of_the_web_needs_no_other_package(tmp_path: Path) -> None:
    (tmp_path / "a.webm").write_bytes(CONTENT)
    handler = partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        with spooled(Path(f"{address}/a.webm?token=1.x")) as found:
            assert (found.read_bytes(), found.suffix) == (CONTENT, ".webm")
        with (
            pytest.raises(MissingFileError, match=r"http://.*/b.webm can't be read"),
            spooled(Path(f"{address}/b.webm")),
        ):
            pass
        server.shutdown()


def test_errors_name_the_input_and_not_its_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"no video")))
    with pytest.raises(VideoError, match=r"^- can't be read as a video"), spooled(Path("-")) as found:
        VideoReader(found)
