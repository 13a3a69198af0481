"""The checker of the length budgets, on files made for it."""

from pathlib import Path

import pytest

import check_budgets


def function(name: str, lines: int) -> str:
    return f"def {name}():\n" + "    pass\n" * (lines - 1)


def check(folder: Path, name: str, source: str) -> list[str]:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source)
    return list(check_budgets.offences(file))


def test_file_length(tmp_path: Path) -> None:
    assert check(tmp_path, "fits.py", "x = 1\n" * 300) == []
    assert "301 lines, at most 300" in check(tmp_path, "long.py", "x = 1\n" * 301)[0]


@pytest.mark.parametrize(("name", "budget"), [("encode", 60), ("train", 120), ("__init__", 45)])
def test_function_length(tmp_path: Path, name: str, budget: int) -> None:
    assert check(tmp_path, "fits.py", function(name, budget)) == []
    (offence,) = check(tmp_path, "long.py", function(name, budget + 1))
    assert offence.endswith(f"{name} has {budget + 1} lines, at most {budget}")


def test_function_lengths_inside_classes_and_async(tmp_path: Path) -> None:
    method = "".join(f"    {line}\n" for line in function("step", 61).splitlines())
    assert len(check(tmp_path, "loop.py", f"class Loop:\n{method}")) == 1
    assert len(check(tmp_path, "short.py", "async " + function("toy", 61))) == 1


@pytest.mark.parametrize("name", ["utils.py", "common.py", "helpers.py", "utils/video.py"])
def test_names_that_say_nothing(tmp_path: Path, name: str) -> None:
    assert "says nothing" in check(tmp_path, name, "")[0]


def test_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_budgets.main([str(tmp_path)]) == 1, "a folder without Python files is a mistake"
    check(tmp_path, "a/fits.py", "x = 1\n")
    assert check_budgets.main([str(tmp_path)]) == 0
    assert "1 files within" in capsys.readouterr().out
    check(tmp_path, "a/helpers.py", "")
    assert check_budgets.main([str(tmp_path)]) == 1
    assert "helpers.py" in capsys.readouterr().out
