"""Captions and classes beside files, as people write them."""

import codecs
from pathlib import Path

import pytest

from regen.curate.sources import read_sidecars


@pytest.mark.parametrize(
    ("content", "caption"),
    [
        (b"\xef\xbb\xbfa red ball", "a red ball"),
        ("a red ball".encode("utf-16"), "a red ball"),
        ("a red ball".encode("utf-16-le"), "a red ball"),
        ("a red ball".encode("utf-16-be"), "a red ball"),
        ("a red ball".encode("utf-32"), "a red ball"),
        (b"one\r\ntwo\r\n", "one\ntwo"),
        (b"\0\0\0\0", ""),
        (b"\x93caf\xe9\x94 \x96 \x80 5 \x81", "\u201ccaf\xe9\u201d \u2013 \u20ac 5 \x81"),
        ("une pi\u00e8ce".encode("latin-1"), "une pi\u00e8ce"),
        ("une pi\u00e8ce".encode(), "une pi\u00e8ce"),
    ],
)
def test_captions_of_any_encoding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, caption: str
) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert read_sidecars(tmp_path / "a.mp4") == (caption, -1)
    assert ("Latin-1" in capsys.readouterr().err) == (b"\xe8" in content or b"\xe9" in content)


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
@pytest.mark.parametrize(
    ("text", "cut", "caption"),
    [("ab", 1, "a\ufffd"), ("ab\ud83d", 0, "ab\ufffd"), ("\ud83da", 0, "\ufffda"), ("", 0, "")],
)
def test_broken_utf_16_keeps_what_can_be_read(
    tmp_path: Path, mark: bytes, text: str, cut: int, caption: str
) -> None:
    """What is no character becomes U+FFFD: a file that is cut off, or half of a pair."""
    coding = "utf-16-le" if mark == codecs.BOM_UTF16_LE else "utf-16-be"
    content = mark + text.encode(coding, "surrogatepass")
    (tmp_path / "a.txt").write_bytes(content[: len(content) - cut])
    found, _ = read_sidecars(tmp_path / "a.mp4")
    assert found == caption and found.encode().decode() == found


def test_suffixes_in_capitals_and_linked_videos(tmp_path: Path) -> None:
    (tmp_path / "a.TXT").write_text("a red ball")
    (tmp_path / "a.CLS").write_text("3")
    assert read_sidecars(tmp_path / "a.mp4") == ("a red ball", 3)
    (tmp_path / "a.mp4").touch()
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "b.mp4").symlink_to(tmp_path / "a.mp4")
    assert read_sidecars(tmp_path / "links" / "b.mp4") == ("a red ball", 3)


def test_json_with_a_mark(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"caption": "a red ball", "class": 2}')
    assert read_sidecars(tmp_path / "a.mp4") == ("a red ball", 2)
