"""Pictures of the workflows for ComfyUI, drawn from their files: python tools/comfyui_picture.py [FOLDER].

FOLDER is docs/pictures by default; the pictures are comfyui-NAME.png.
"""

import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parents[1]
WORKFLOWS = ROOT / "integrations" / "comfyui" / "example_workflows"
SCALE, MARGIN = 2, 24  # pixels of the picture for one of the workflow; margin in those of the workflow
TITLE, ROW = 26, 20  # height of a title and of a row
BACKGROUND, BODY, HEAD, TEXT, DIM, FIELD = "#222222", "#353535", "#2b4a5a", "#eeeeee", "#aaaaaa", "#1d1d1d"
COLOURS = {
    "IMAGE": "#64b5f6", "LATENT": "#ff9cf9", "VIDEO": "#ffb74d", "AUDIO": "#a5d6a7", "FLOAT": "#b0bec5",
    "REGEN_MODEL": "#b39ddb", "REGEN_GENERATOR": "#f48fb1",
}  # fmt: skip
# Names of widgets in their order.
WIDGETS = {
    "LoadVideo": ["file"],
    "CreateVideo": ["fps"],
    "SaveVideo": ["filename_prefix", "format", "codec"],
    "RegenLoadModel": ["name", "device", "dtype"],
    "RegenLoadGenerator": ["name", "device", "dtype"],
    "RegenEncode": ["fps"],
    "RegenDecode": [
        *("interpolate", "steps", "seed", "control after generate", "seams"),
        *("extrapolate_before", "extrapolate_after"),
    ],
    "RegenGenerate": [
        *("prompt", "negative_prompt", "seed", "control after generate", "steps", "guidance_scale"),
        *("frames", "width", "height"),
    ],
}
Node = dict[str, Any]
Point = tuple[float, float]


def rows(node: Node) -> list[tuple[str, str]]:
    """Names and values of the widgets; long values are cut off."""
    linked = {port["name"] for port in node["inputs"] if port["link"] is not None}
    named = zip(WIDGETS.get(node["type"], []), node["widgets_values"], strict=True)
    return [(name, str(value)) for name, value in named if name not in linked]


def height(node: Node) -> float:
    return TITLE + ROW * (max(len(node["inputs"]), len(node["outputs"])) + len(rows(node))) + 10


def place(node: Node, side: str, slot: int) -> Point:
    """The middle of a port."""
    x = node["pos"][0] + (node["size"][0] if side == "outputs" else 0)
    return x, node["pos"][1] + TITLE + ROW * (slot + 0.5) + 2


def font(size: int) -> Any:
    return ImageFont.load_default(size * SCALE)


def box(x: float, y: float, width: float, height: float) -> list[float]:
    return [SCALE * value for value in (x, y, x + width, y + height)]


def draw_link(draw: ImageDraw.ImageDraw, start: Point, end: Point, colour: str) -> None:
    """A cubic curve that leaves and arrives horizontally."""
    reach = max(40.0, abs(end[0] - start[0]) / 2)
    controls = (start, (start[0] + reach, start[1]), (end[0] - reach, end[1]), end)
    points = []
    for step in range(41):
        t = step / 40
        weights = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
        points.append(
            tuple(SCALE * sum(w * p[i] for w, p in zip(weights, controls, strict=True)) for i in (0, 1))
        )
    draw.line(points, fill=colour, width=2 * SCALE, joint="curve")


def draw_node(draw: ImageDraw.ImageDraw, node: Node) -> None:
    (x, y), width = node["pos"], node["size"][0]
    title = "".join(f" {letter}" if letter.isupper() else letter for letter in node["type"]).strip()
    draw.rounded_rectangle(box(x, y, width, height(node)), 6 * SCALE, fill=BODY)
    draw.rounded_rectangle(box(x, y, width, TITLE), 6 * SCALE, fill=HEAD if "Regen" in title else "#444444")
    draw.text((SCALE * (x + 10), SCALE * (y + 6)), title, fill=TEXT, font=font(12))
    for side, anchor, inset in (("inputs", "lm", 12), ("outputs", "rm", -12)):
        for slot, port in enumerate(node[side]):
            px, py = place(node, side, slot)
            draw.ellipse(box(px - 4, py - 4, 8, 8), fill=COLOURS[port["type"]])
            draw.text((SCALE * (px + inset), SCALE * py), port["name"], TEXT, font(11), anchor)
    top = y + TITLE + ROW * max(len(node["inputs"]), len(node["outputs"])) + 4
    for number, (name, value) in enumerate(rows(node)):
        row = top + ROW * number
        draw.rounded_rectangle(box(x + 8, row, width - 16, ROW - 3), 4 * SCALE, fill=FIELD)
        draw.text((SCALE * (x + 16), SCALE * (row + 8)), name, DIM, font(10), "lm")
        room = width - 40 - draw.textlength(name, font(10)) / SCALE
        while draw.textlength(value, font(10)) / SCALE > room:
            value = value.removesuffix("…")[:-1] + "…"
        draw.text((SCALE * (x + width - 16), SCALE * (row + 8)), value, TEXT, font(10), "rm")


def picture(workflow: dict[str, Any]) -> Image.Image:
    """The graph of a workflow."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    right = max(node["pos"][0] + node["size"][0] for node in nodes.values()) + MARGIN
    bottom = max(node["pos"][1] + height(node) for node in nodes.values()) + MARGIN
    image = Image.new("RGB", (round(SCALE * right), round(SCALE * bottom)), BACKGROUND)
    draw = ImageDraw.Draw(image)
    for _, source, output, target, slot, kind in workflow["links"]:
        start, end = place(nodes[source], "outputs", output), place(nodes[target], "inputs", slot)
        draw_link(draw, start, end, COLOURS[kind])
    for node in nodes.values():
        draw_node(draw, node)
    return image


def main(folder: Path) -> None:
    for path in sorted(WORKFLOWS.glob("*.json")):
        target = folder / f"comfyui-{path.stem}.png"
        picture(json.loads(path.read_text(encoding="utf-8"))).save(target, optimize=True)
        print(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "pictures")
