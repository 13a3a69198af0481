"""A part is made by one process at a time; what killed ones leave is found and removed."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from regen.locks import Claims

HOLD = """
import sys, time
from pathlib import Path
from regen.locks import Claims
with Claims(Path(sys.argv[1])).claim("a") as place:
    (place / "half").write_text("a part")
    print("here", flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    made = Claims(tmp_path / "out" / ".work")
    made.open()
    return made


def names(claims: Claims) -> list[str]:
    return sorted(path.name for path in claims.path.iterdir())


def test_one_at_a_time(claims: Claims) -> None:
    other = Claims(claims.path)
    with claims.claim("a") as place:
        assert place is not None and list(place.iterdir()) == []
        (place / "half").write_text("")
        with other.claim("a") as second, other.claim("b") as third:
            assert second is None and third is not None
    assert names(claims) == ["all.lock"]
    with pytest.raises(KeyboardInterrupt), claims.claim("a") as place:
        raise KeyboardInterrupt
    assert names(claims) == ["all.lock"]


@pytest.mark.parametrize("again", [True, False])
def test_what_a_killed_process_leaves_is_removed(claims: Claims, again: bool) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(claims.path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"here\n"
        with claims.claim("a") as place:
            assert place is None
        claims.tidy()
        assert len(names(claims)) == 3, "what is in use is left alone"
        process.send_signal(signal.SIGKILL)
        process.wait()
    if again:
        with claims.claim("a") as place:
            assert place is not None and list(place.iterdir()) == []
    else:
        claims.tidy()
    assert names(claims) == ["all.lock"]


def test_a_text_is_whole_or_not_there(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    target = claims.path.parent / "below" / "text"
    claims.write_text(target, "größer")
    assert target.read_text(encoding="utf-8") == "größer" and names(claims) == ["all.lock"]

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("regen.locks.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        claims.write_text(target, "other")
    assert target.read_text(encoding="utf-8") == "größer" and names(claims) == ["all.lock"]


def test_alone(claims: Claims) -> None:
    code = HOLD.replace('.claim("a") as place', ".alone()").replace(
        '(place / "half").write_text("a part")', ""
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code.replace("1000", "0.5"), str(claims.path)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"here\n"
        begun = time.monotonic()
        with claims.alone():
            assert time.monotonic() - begun > 0.2
        process.wait()
