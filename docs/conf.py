"""Configuration of the documentation site: `make docs`."""

import io
import os
import re
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "src"))
os.environ["COLUMNS"] = "110"

from regen import __version__  # noqa: E402
from regen.cli import main  # noqa: E402
from regen.cli.recipes import recipe_index  # noqa: E402

project, author, release = "regen", "The regen contributors", __version__
copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"regen {release}"
html_theme_options = {
    "source_repository": "https://github.com/regen-video/regen",
    "source_branch": "main",
    "source_directory": "docs/",
}
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings have the shapes; signatures with them fill a screen
autodoc_preserve_defaults = True
default_role = "code"
pygments_style, pygments_dark_style = "friendly", "monokai"

COMMANDS = (
    *(
        "reconstruct",
        "encode",
        "decode",
        "preview",
        "fit-preview",
        "generate",
        "train",
        "train toy",
        "plan toy",
        "evaluate",
    ),
    *("evaluate-generator", "shards build", "shards index", "shards show", "runs show", "latents export"),
    *("latents show", "models", "recipes", "push", "app"),
)
# The public part of the package, in the order of the guide through it.
REFERENCE = {
    "models": (
        "Model classes",
        [
            "embedders.regen",
            "embedders.regen_decoder",
            "embedders.one_dva",
            "embedders.magvit2",
            "embedders.linear",
        ],
    ),
    "codec": (
        "Whole videos",
        [
            "codec.sessions",
            "codec.sequence",
            "codec.transcode",
            "codec.timeline",
            "codec.rate_control",
            "latents",
            "media.reader",
        ],
    ),
    "generation": (
        "Generation",
        ["generate.pipeline", "generate.generator", "generate.video_generator", "generate.sampling"],
    ),
    "training": (
        "Training",
        [
            "train.recipe",
            "train.trainer",
            "train.loop",
            "train.optimizer",
            "train.finetune",
            "data.clips",
            "corpus.dataset",
        ],
    ),
    "measuring": (
        "Measuring",
        ["evaluate.quality", "metrics.psnr_ssim", "metrics.lpips", "metrics.frechet", "metrics.seams"],
    ),
    "method": (
        "The method as functions",
        ["diffusion", "tiling", "pretrained.listing", "pretrained.models", "names"],
    ),
}


def help_of(line: str) -> str:
    """What `regen LINE --help` prints."""
    with redirect_stdout(io.StringIO()) as output, suppress(SystemExit):
        main([*line.split(), "--help"])
    return re.sub(r"\x1b\[[0-9;]*m", "", output.getvalue()).rstrip()


def write_pages() -> None:
    """Pages made of the package: options of commands, recipes, and modules."""
    folder = DOCS / "api"
    folder.mkdir(exist_ok=True)
    helps = [f"## regen {line}\n\n```text\n{help_of(line)}\n```\n" for line in COMMANDS if line != "train"]
    write(folder / "commands.md", "# Commands\n\n" + "\n".join(helps))
    rows, family = ["# Recipes\n\n`regen train RECIPE`, and what each is for.\n"], ""
    for recipe in recipe_index():
        if recipe["family"] != family:
            family = recipe["family"]
            rows.append(f"\n## {family}\n\n| recipe | for | what it makes |\n|---|---|---|")
        rows.append(f"| `{recipe['name']}` | {recipe['hardware']} | {recipe['summary']} |")
    write(folder / "recipes.md", "\n".join(rows) + "\n")
    for name, (title, modules) in REFERENCE.items():
        parts = [f"{title}\n{'=' * len(title)}\n"]
        for module in (f"regen.{module}" for module in modules):
            parts.append(f"{module}\n{'-' * len(module)}\n\n.. automodule:: {module}\n   :members:\n")
        write(folder / f"{name}.rst", "\n".join(parts))


def write(path: Path, text: str) -> None:
    """Write a page that has changed; Sphinx reads the others no more than once."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def as_rst(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text: names in backticks, and blocks with an indent, which keep their lines."""
    out: list[str] = []
    is_block = False
    for line in lines:
        if line.startswith(" ") and not is_block:
            out += ["", "::", ""]
        elif line and not line.startswith(" ") and is_block:
            out.append("")
        is_block = line.startswith(" ") or (is_block and not line)
        out.append(line if is_block else escaped(line))
    lines[:] = [*out, ""]


def escaped(line: str) -> str:
    """A line of text in which nothing but names in backticks has a meaning."""
    parts = re.split(r"(`[^`]+`)", line)
    texts = [re.sub(r"([*|\\_`])", r"\\\1", part) for part in parts[::2]]
    names = [f"`{part}`" for part in parts[1::2]]
    return "".join(text + name for text, name in zip(texts, [*names, ""], strict=True))


def setup(app: object) -> None:
    write_pages()
    app.connect("autodoc-process-docstring", as_rst)  # type: ignore[attr-defined]
