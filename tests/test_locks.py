"""A part is made by one process at a time; what killed processes leave is found and removed."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from regen.locks import Claims, lock_folder

HOLD = """
import sys, time
from pathlib import Path
from regen.locks import Claims, lock_folder
claims = Claims(Path(sys.argv[1]))
with {block} as place:
    place and (place / "half").write_text("a part")
    print("here", flush=True)
    time.sleep({seconds})
    print("leaving", flush=True)
"""


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    made = Claims(tmp_path / "out" / ".work")
    made.open()
    return made


def names(claims: Claims) -> list[str]:
    return sorted(path.name for path in claims.path.iterdir())


@contextmanager
def another_process(claims: Claims, block: str, seconds: float) -> Iterator["subprocess.Popen[bytes]"]:
    """It is inside the block when this begins, and has ended when this ends."""
    code = HOLD.format(block=block, seconds=seconds)
    process = subprocess.Popen([sys.executable, "-c", code, str(claims.path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"here\n"
        yield process
    process.wait()


def test_one_at_a_time(claims: Claims) -> None:
    other = Claims(claims.path)
    with claims.claim("a") as place:
        assert place is not None and list(place.iterdir()) == []
        (place / "half").write_text("")
        with other.claim("a") as second, other.claim("b") as third:
            assert second is None and third is not None
        other.tidy()
        assert (place / "half").exists(), "what is in use is left alone"
    assert names(claims) == ["all.lock"]
    with pytest.raises(KeyboardInterrupt), claims.claim("a"):
        raise KeyboardInterrupt
    assert names(claims) == ["all.lock"]


def test_a_part_without_its_lock_is_removed(claims: Claims) -> None:
    """As a process leaves it that was interrupted while it removed the part."""
    (claims.path / "0123").mkdir()
    claims.tidy()
    assert names(claims) == ["all.lock"]


@pytest.mark.integration
@pytest.mark.parametrize("again", [True, False])
def test_what_a_killed_process_leaves_is_removed(claims: Claims, again: bool) -> None:
    with another_process(claims, 'claims.claim("a")', 1000) as process:
        with claims.claim("a") as place:
            assert place is None
        claims.tidy()
        assert len(names(claims)) == 3, "what is in use is left alone"
        process.send_signal(signal.SIGKILL)
    if again:
        with claims.claim("a") as place:
            assert place is not None and list(place.iterdir()) == []
    else:
        claims.tidy()
    assert names(claims) == ["all.lock"]


@pytest.mark.integration
def test_alone(claims: Claims) -> None:
    with another_process(claims, "claims.alone()", 0.5) as process, claims.alone():
        assert process.stdout is not None
        assert process.stdout.readline() == b"leaving\n", "the other process was still inside"


def test_a_folder_is_for_one_activity_at_a_time(tmp_path):
    with lock_folder(tmp_path / "run", "training"):
        with (
            pytest.raises(ValueError, match="Another training runs"),
            lock_folder(tmp_path / "run", "training"),
        ):
            pass
        (tmp_path / "run" / "log").touch()
    with lock_folder(tmp_path / "run", "training"):
        pass
    with lock_folder(tmp_path / "empty", "training"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
