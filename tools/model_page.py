"""The page of the models, docs/models.md, from the models, their cards and the manifest.

python tools/model_pictures.py NAME     draws the picture of a model, and of all by default
python tools/model_page.py              writes the page
"""

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCard

from regen.names import published_models
from regen.pretrained.listing import (
    DEFAULT_MODEL,
    GeneratorInfo,
    ModelInfo,
    available,
    available_generators,
    find_model,
)

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "models.md"
SOURCE = "https://github.com/regen-video/regen/tree/main"
SHOWN = 22  # the frame of the pictures, inside a chunk at every ratio
PROMPT = (
    "two large plain purple triangles move right quickly on a dark background while the camera stays still"
)
INTRO = f"""# Models

Every stored model, with a picture by it. `regen models` lists them; a name works in every command and in
`from_pretrained`, and those that are not in the package are fetched once ([names](hub.md)). How they were
trained is in their cards, what is wanted in [checkpoints](checkpoints.md), and how they compare in the
[results](results.md). All are small models, trained for minutes or an hour on CPUs.

The pictures have the original at the left and the one-step reconstruction at the right, of frame {SHOWN} of
the example clip (Big Buck Bunny, © 2008 Blender Foundation, CC-BY 3.0) or of a drawn one.
"""
NOTE = """
PSNR and SSIM are means over the clips that the section of a model names; they are empty where its card has
other measures.
"""


@dataclass(frozen=True)
class Entry:
    """A model and its card: `text` is the card's first paragraph, `figures` its results by name."""

    info: ModelInfo | GeneratorInfo
    license: str
    text: str
    command: str
    limits: str
    figures: dict[str, float]
    measured_on: str

    @property
    def folder(self) -> str:
        """The folder in the repository."""
        place = "src/regen/pretrained" if self.info.where == "in the package" else "checkpoints"
        return f"{SOURCE}/{place}/{self.info.name}"


def entries() -> list[Entry]:
    """All models of the package and of checkpoints/: the bundled one first, generators last."""
    embedders = sorted(available(), key=lambda info: (info.name != DEFAULT_MODEL, _family(info), info.ratio))
    infos: list[ModelInfo | GeneratorInfo] = [*embedders, *available_generators()]
    return [_entry(info) for info in infos if info.where in ("in the package", "checkpoints/")]


def _family(info: ModelInfo) -> str:
    return info.name.removesuffix(f"-{info.ratio}x")


def _entry(info: ModelInfo | GeneratorInfo) -> Entry:
    card = ModelCard.load(find_model(info.name) / "README.md")
    results = card.data.eval_results or []
    body = card.text.replace("<!-- usage -->", "")
    paragraphs = [part.strip() for part in body.split("\n\n")]
    commands = re.findall(r"^    (regen .*)$", body, flags=re.MULTILINE)
    limits = re.search(r"^## Limits\n\n(.*?)(?=\n## |\Z)", body, flags=re.MULTILINE | re.DOTALL)
    return Entry(
        info=info,
        license=str(card.data.license),
        text=next(part for part in paragraphs if part and not part.startswith("#")),
        command=next(line for line in commands if f"--model {info.name}" in line or "--compare" in line),
        limits=limits[1].strip() if limits else "",
        figures={result.metric_type: float(result.metric_value) for result in results},
        measured_on=results[0].dataset_name if results else "",
    )


def page() -> str:
    """The text of docs/models.md."""
    models = entries()
    embedders = [model for model in models if isinstance(model.info, ModelInfo)]
    rows = [
        "| model | ratio | channels | parameters | MB | PSNR (dB) | SSIM | licence |",
        "|" + "---|" * 8,
    ]
    for model in embedders:
        info, figures = model.info, model.figures
        assert isinstance(info, ModelInfo)
        psnr = f"{figures['psnr']:.2f}" if "psnr" in figures else ""
        ssim = f"{figures['ssim']:.3f}" if "ssim" in figures else ""
        sizes = f"{info.ratio}× | {info.latent_channels} | {info.parameters:,} | {info.megabytes:.1f}"
        rows.append(f"| [{info.name}](#{info.name}) | {sizes} | {psnr} | {ssim} | {model.license} |")
    rows += ["", "| generator | of the latents of | from | parameters | MB | licence |", "|" + "---|" * 6]
    for model in models[len(embedders) :]:
        info = model.info
        assert isinstance(info, GeneratorInfo)
        sizes = f"{info.parameters:,} | {info.megabytes:.1f}"
        link = f"[{info.name}](#{info.name})"
        rows.append(f"| {link} | {info.embedder} | {info.condition} | {sizes} | {model.license} |")
    return "\n".join([INTRO, *rows, NOTE, *map(_section, models)])


def _section(model: Entry) -> str:
    name, published = model.info.name, published_models().get(model.info.name)
    parts = [
        f"## {name}",
        model.text,
        f"![{_caption(model)}](pictures/models/{name}.jpg)",
        f"```bash\n{model.command}\n```",
    ]
    if model.measured_on:
        figures = f"{model.figures['psnr']:.2f} dB PSNR" + (
            f" and {model.figures['ssim']:.3f} SSIM" if "ssim" in model.figures else ""
        )
        parts.append(f"{model.measured_on}: {figures}.")
    if model.limits:
        parts.append(f"*Limits.* {model.limits}")
    where = [f"[Card and weights]({model.folder})"]
    if published is not None:
        where.append(f"repository `{published.repository}`, SHA-256 of the weights `{published.sha256}`")
    parts.append(", ".join(where) + ".")
    return "\n\n".join(parts) + "\n"


def _caption(model: Entry) -> str:
    if isinstance(model.info, GeneratorInfo):
        return f"Four frames of a video by {model.info.name}: {PROMPT}"
    return f"Original and reconstruction by {model.info.name}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
