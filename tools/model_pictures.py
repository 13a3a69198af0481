"""The pictures of docs/models.md: python tools/model_pictures.py [NAME ...]; all models by default.

`ratios` draws docs/pictures/ratios.jpg, the small models and the linear embedders at all ratios.
An embedder's picture has a frame of the example clip and its one-step reconstruction, or one of a drawn clip
where the model knows the world of moving shapes only; a generator's has four frames of a video.
"""

import sys
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from model_page import PROMPT, ROOT, SHOWN, entries
from regen import RegenTextToVideoPipeline
from regen.codec.sessions import DecodeSession, EncodeSession
from regen.data.shape_world import parse_caption
from regen.media.reader import VideoReader
from regen.pretrained.listing import GeneratorInfo, ModelInfo
from regen.pretrained.models import load

sys.path.insert(0, str(ROOT / "benchmarks"))
from world import render

PICTURES = ROOT / "docs" / "pictures" / "models"
CLIP = ROOT / "examples" / "butterfly.mp4"
FRAMES = 34  # to the end of the chunk of SHOWN at every ratio
GENERATED = (0, 11, 22, 32)
RATIOS = (4, 8, 16, 32)
KINDS = {"regen-small": "REGEN", "linear": "linear"}  # rows of the picture of all ratios, and their labels
LEFT, SIDE = 155, 256  # the part of a frame that it shows
MARGIN, TEXT = 22, 15  # pixels above a picture for its label, and the height of that
WORLD = "world"  # in the names of models that know the world of moving shapes only

Picture = UInt8[Tensor, "h w 3"]


def draw(info: ModelInfo | GeneratorInfo) -> Path:
    """Draw the picture of a model, and save it as a small JPEG file."""
    row = generated(info.name) if isinstance(info, GeneratorInfo) else reconstructed(info.name)
    path = PICTURES / f"{info.name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(torch.cat(row, dim=1).numpy()).save(path, quality=88, optimize=True)
    return path


def reconstructed(name: str) -> list[Picture]:
    """A frame and its reconstruction."""
    model = load(name, torch.device("cpu"), torch.float32)
    clip = drawn_clip() if WORLD in name else example_clip()
    start = SHOWN // model.chunk_frames * model.chunk_frames  # of its chunk
    decoder = DecodeSession(model, height=clip.shape[1], width=clip.shape[2])
    (chunk,) = EncodeSession(model).feed(clip[start : start + model.chunk_frames])
    return [clip[SHOWN], decoder.feed(chunk)[SHOWN - start]]


def generated(name: str) -> list[Picture]:
    """Some frames of a video."""
    pipeline = RegenTextToVideoPipeline.from_pretrained(name, torch_dtype=torch.float32)
    images = pipeline(PROMPT, generator=torch.Generator().manual_seed(0)).frames[0]
    return [torch.from_numpy(np.array(images[index])) for index in GENERATED]


def draw_ratios() -> Path:
    """A frame, and by row its reconstructions by one kind of model at all ratios."""
    rows = []
    for kind, label in KINDS.items():
        pairs = {ratio: reconstructed(f"{kind}-{ratio}x") for ratio in RATIOS}
        parts = [labelled("original", pairs[RATIOS[0]][0])]
        parts += [labelled(f"{label}, {ratio}x", pair[1]) for ratio, pair in pairs.items()]
        rows.append(torch.cat(parts, dim=1))
    path = PICTURES.parent / "ratios.jpg"
    Image.fromarray(torch.cat(rows).numpy()).save(path, quality=90, optimize=True)
    return path


def labelled(label: str, picture: Picture) -> Picture:
    """The middle of a picture below its label."""
    image = Image.new("RGB", (SIDE, MARGIN + SIDE), "white")
    ImageDraw.Draw(image).text((4, 2), label, "black", ImageFont.load_default(TEXT))
    image.paste(Image.fromarray(picture[:, LEFT : LEFT + SIDE].numpy()), (0, MARGIN))
    return torch.from_numpy(np.array(image))


def example_clip() -> UInt8[Tensor, "t h w 3"]:
    """The first frames of the example."""
    with VideoReader(CLIP) as reader:
        return torch.stack([frame.image for frame in islice(reader, FRAMES)])


def drawn_clip() -> UInt8[Tensor, "t h w 3"]:
    """A clip of the world of moving shapes."""
    scene = parse_caption(PROMPT)
    assert scene is not None
    return render(scene, FRAMES, 192, 320, seed=0)


if __name__ == "__main__":
    for model in entries():
        if model.info.name in sys.argv[1:] or not sys.argv[1:]:
            print(draw(model.info), flush=True)
    if "ratios" in sys.argv[1:] or not sys.argv[1:]:
        print(draw_ratios(), flush=True)
