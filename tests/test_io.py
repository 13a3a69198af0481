"""Files are written whole or not at all, and checksums are compared."""

import json
import os
import stat
from pathlib import Path

import pytest

from regen.io import (
    atomic_path,
    check_output,
    check_sha256,
    file_sha256,
    make_folder,
    read_json,
    write_json,
    write_text,
)

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_readers_see_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path and list(tmp_path.glob("*.json")) == [path]
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_folder_as_it_was(tmp_path: Path, error: type[BaseException]) -> None:
    def write() -> None:
        with atomic_path(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("regen.io.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with atomic_path(path) as first, atomic_path(path) as second:
        first.write_text("1")
        second.write_text("2")
    assert path.read_text() == "1" and list(tmp_path.iterdir()) == [path]


def test_the_longest_name_and_the_usual_permissions(tmp_path: Path) -> None:
    path, plain = tmp_path / ("漢" * 83), tmp_path / "plain"
    before = os.umask(0o027)
    try:
        plain.write_text("")
        write_text(path, "größer")
    finally:
        os.umask(before)
    assert path.read_text(encoding="utf-8") == "größer"
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_errors_name_the_file_and_not_the_temporary_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write_text(tmp_path / "missing" / "a", "")
    assert caught.value.filename == str(tmp_path / "missing" / "a")


def test_json(tmp_path: Path) -> None:
    path, content = tmp_path / "a.json", {"a": [1, 0.5, None], "b": "ü"}
    write_json(path, content)
    assert read_json(path) == json.loads(path.read_text()) == content
    for damaged in (b'{"a": ', b"\xff"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="a.json must be a JSON file") as caught:
            read_json(path)
        assert "\n" not in str(caught.value)


def test_checksums(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert file_sha256(path) == ABC
    for expected in (ABC, ABC[:8].upper(), None):
        assert check_sha256(path, expected, "get it") == ABC
    with pytest.raises(ValueError, match=f"{'0' * 8}, got {ABC}; get it"):
        check_sha256(path, "0" * 8, "get it")
    with pytest.raises(ValueError, match="8 to 64 hexadecimal digits, got 'xyz'"):
        check_sha256(path, "xyz", "get it")
    with pytest.raises(ValueError, match="missing must be a readable file; get it"):
        check_sha256(tmp_path / "missing", None, "get it")


def test_outputs_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    for name, suffixes, message in (
        ("x.mp4", (".safetensors",), "must end in .safetensors, got"),
        ("x", (".mp4", ".png"), "must end in one of .mp4, .png, got"),
        ("folder.mp4", (), "must be a file, but .*folder.mp4 is a folder"),
        ("none/x.mp4", (".mp4",), "folder .*none must exist"),
        ("file/x.mp4", (".mp4",), "folder .*file must exist"),
    ):
        with pytest.raises(ValueError, match=message):
            check_output(tmp_path / name, suffixes)
    check_output(tmp_path / "x.MP4", (".mp4",))
    make_folder(tmp_path / "new" / "one", "--out")
    with pytest.raises(ValueError, match="--out must be a writable folder, got .*file"):
        make_folder(tmp_path / "file", "--out")
