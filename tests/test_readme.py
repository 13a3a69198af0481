"""What README.md tells a reader to type works: its Python block runs, its commands do what they say."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from tiny_media import make_video

import readme_commands
from regen import cli
from regen.generate import training
from regen.recipes import GENERATORS, RECIPES
from regen.train import trainer as run

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY, EXTRAS = PROJECT["urls"]["Source"], PROJECT["optional-dependencies"]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line and Path(line[0]).name == "regen"]


def test_the_python_block_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    names: dict = {}
    for block in blocks("python"):
        exec(block, names)
    assert names["reconstruction"].shape == names["video"].shape
    assert names["between"].shape == (1, 3, 9, 128, 128)
    assert names["frames"].shape == (2, 128, 128, 3)  # 12 frames are two chunks of 5 and a rest


def test_the_commands_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").mkdir()
    for name in ("in.mp4", "examples/butterfly.mp4"):
        make_video(tmp_path / name, frames=5, height=24, width=32)
    for name in ("CLIPS", "VIDEOS"):
        (tmp_path / name).mkdir()
    make_video(tmp_path / "VIDEOS" / "clip.mp4", frames=20, height=128, width=128)
    make_video(tmp_path / "CLIPS" / "clip.mp4", frames=5, height=24, width=32)
    trained, generators = [], []

    def instead_of_training(recipe, **arguments):
        trained.append((recipe, arguments))
        return Path("RUN")

    def instead_of_a_generator(recipe, *arguments, **options):
        generators.append((recipe, arguments))
        return Path("GENERATOR")

    monkeypatch.setattr(run, "run_recipe", instead_of_training)
    monkeypatch.setattr(training, "run_generator", instead_of_a_generator)
    kinds = set()
    for arguments in commands():
        if {"RUN", "GENERATOR"} & set(arguments) and arguments[0] != "train":
            continue
        if arguments[0] == "generate":
            arguments += ["--steps", "2", "--size", "32x32"]
        elif arguments[0] == "plan":
            arguments[1:] = ["toy"]  # the integration tests plan those of the paper
        elif "--size" in arguments:
            arguments[arguments.index("--size") + 1] = "24x32"
        assert cli.main(arguments) == 0, (arguments, capsys.readouterr().err)
        kinds.add(arguments[0])
    assert kinds == {
        "reconstruct",
        "encode",
        "decode",
        "train",
        "models",
        "plan",
        "recipes",
        "evaluate",
        "generate",
        "shards",
    }
    assert (tmp_path / "out.mp4").exists()
    assert (tmp_path / "OUT" / "index.html").exists()
    assert trained[0][0] == RECIPES["regen-small-4x-cpu"]
    assert trained[0][1]["data"] == ("SHARDS",)
    assert trained[1][0].init.model == "regen-small-4x"
    assert generators[0][0] == GENERATORS["t2v-small"] and generators[0][1][0] == Path("LATENTS")
    assert (tmp_path / "generated.mp4").exists()


def test_the_newcomers_exceptions_are_commands_of_the_readme():
    """tools/newcomer.sh runs all others as they stand."""
    lines = readme_commands.commands(README)
    assert len(lines) > 15
    for prefix in (*readme_commands.SKIPPED, *readme_commands.ADDED):
        assert any(line.startswith(prefix) for line in lines), prefix
    assert readme_commands.started_with("regen train t2v-small", {"regen": "a", "regen train": "b"}) == "b"
    assert readme_commands.started_with("pip install .", {"regen": "a"}) is None


@pytest.mark.parametrize("file", [*sorted(ROOT.glob("docs/*.md")), ROOT / "README.md"], ids=lambda f: f.name)
def test_links_to_files_lead_somewhere(file):
    text = file.read_text(encoding="utf-8")
    targets = [file.parent / target for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text)]
    targets += [
        ROOT / target for target in re.findall(rf"{REPOSITORY}/(?:blob|tree|raw)/main/([^)#\s]+)", text)
    ]
    made = ROOT / "docs" / "api"  # by `make docs`
    assert [target for target in targets if not target.exists() and target.parent != made] == []


def test_links_of_the_readme_work_on_any_page():
    """The page of the package shows it, too, and has no files beside it."""
    assert re.findall(r"\]\((?!https://)[^)]*\)", README) == []
    assert [extra for extra in EXTRAS if extra not in ("dev", "docs") and f"`{extra}`" not in README] == []
