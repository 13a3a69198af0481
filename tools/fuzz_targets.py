"""What is fuzzed: for each kind of input, files made on the spot and the code that reads them.

A target makes one or more folders. One file in a copy of one of them is mutated; then the copy is used as the
commands use it.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "tiny"))

from movies import make_movie, numbered
from tiny_latents import export, make_corpus, make_hybrid_model, make_model
from tiny_media import tiny_magvit2, tiny_onedva, tiny_regen
from tiny_run import run_tiny
from tiny_shards import make_shards

from regen.codec.latent_file import read, write
from regen.codec.transcode import decode_video, encode_video
from regen.corpus.dataset import LatentDataset, summarize
from regen.corpus.shards import MANIFEST
from regen.curate.indexing import list_members, read_member
from regen.curate.sources import read_sidecars
from regen.data.clips import ClipDataset, ClipSpec
from regen.data.shards import INDEX, ShardSet
from regen.embedders.linear import AutoencoderLinear
from regen.media.audio import extract_audio
from regen.media.reader import VideoReader, VideoWriter
from regen.pretrained.models import load, silence_logging, weights_hash
from regen.recipes import RECIPES
from regen.recipes.stored import configured, read_config
from regen.train.checkpoint import list_checkpoints, load_ema
from regen.train.run_summary import describe, read_runs

CPU = torch.device("cpu")
FRAMES = 10
SIDES = 64, 48
VIDEOS: dict[str, tuple[str, str, str | None]] = {  # name: codec, pixel format, sound
    "h264.mp4": ("libx264", "yuv420p", "aac"),
    "h264.ts": ("libx264", "yuv420p", "aac"),
    "h264.flv": ("libx264", "yuv420p", "aac"),
    "h264.mkv": ("libx264", "yuv422p10le", "pcm_s16le"),
    "raw.h264": ("libx264", "yuv420p", None),
    "hevc.mp4": ("libx265", "yuv420p", None),
    "av1.mp4": ("libsvtav1", "yuv420p", None),
    "mpeg2.mpg": ("mpeg2video", "yuv420p", "mp2"),
    "mpeg4.avi": ("mpeg4", "yuv420p", "mp3"),
    "mjpeg.avi": ("mjpeg", "yuvj420p", None),
    "vp9.webm": ("libvpx-vp9", "yuva420p", "libopus"),
    "vp8.webm": ("libvpx", "yuv420p", None),
    "prores.mov": ("prores_ks", "yuva444p10le", "pcm_s16le"),
    "qtrle.mov": ("qtrle", "argb", None),
    "ffv1.mkv": ("ffv1", "yuv444p10le", "flac"),
    "wmv.wmv": ("wmv2", "yuv420p", None),
    "raw.y4m": ("wrapped_avframe", "yuv420p", None),
    "video.gif": ("gif", "rgb8", None),
}
OPTIONS = {"libx265": {"x265-params": "log-level=none"}, "libsvtav1": {"preset": "12"}}
MOVING = (".png", ".webp", ".avif", ".gif")
STILLS = (".png", ".jpg", ".webp", ".avif", ".tiff", ".bmp")


@dataclass(frozen=True)
class Target:
    """`make` fills folders below the one that it is given; `use` reads one of them.

    `only` tells which files of a folder are mutated, all by default.
    """

    make: Callable[[Path], None]
    use: Callable[[Path], object]
    only: Callable[[Path], bool] = lambda path: True


def make_media(folder: Path) -> None:
    """A folder for each container and codec, with one file of ten frames."""
    for name, (codec, pixel_format, sound) in VIDEOS.items():
        place = _folder(folder, name)
        make_movie(place / name, numbered(FRAMES), codec=codec, pixel_format=pixel_format, audio=sound,
                   options=OPTIONS.get(codec))  # fmt: skip
    make_movie(_folder(folder, "hdr") / "a.mkv", numbered(FRAMES), codec="ffv1", pixel_format="yuv444p10le",
               transfer=(16, 9), colours=(9, 1))  # fmt: skip
    turned = {"rotation": (90.0, False), "times": [index**2 / 50 for index in range(FRAMES)]}
    make_movie(_folder(folder, "turned") / "a.mp4", numbered(FRAMES), **turned)
    images = [Image.fromarray(image) for image in numbered(FRAMES)]
    for suffix in MOVING:
        path = _folder(folder, f"moving{suffix}") / f"a{suffix}"
        images[0].save(path, save_all=True, append_images=images[1:], duration=100)
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in STILLS:
        images[0].save(_folder(folder, f"still{suffix}") / f"a{suffix}", exif=exif)
    Image.fromarray(np.dstack([numbered(1)[0], numbered(1)[0][..., :1]])).save(
        _folder(folder, "alpha") / "a.png"
    )


def use_media(folder: Path) -> None:
    """Describe, read, seek in and copy a video with its sound."""
    (path,) = folder.iterdir()
    with VideoReader(path, threads=1, square_pixels=False) as reader:
        info = reader.info
        times = reader.frame_times()
        reader.read_at([0.0, float(times[len(times) // 2])] if len(times) else [0.0])
        audio = path if info.has_audio else None
        out = folder.parent / "out.mkv"
        with VideoWriter(out, info.width, info.height, info.frame_rate, audio) as writer:
            for frame in islice(reader, FRAMES + 2):
                writer.write(frame.image, frame.time)
    if info.has_audio:
        extract_audio(path)


def make_latents(folder: Path) -> None:
    """A latent file of each class of models, with its model."""
    clip = make_movie(folder / "clip.mp4", numbered(FRAMES), audio="aac")
    for name in EMBEDDERS:
        place = _folder(folder, name)
        model = _save_model(name, place / "model")
        video, _ = encode_video(model, clip, name="m", weights=weights_hash(str(place / "model")))
        write(place / "a.safetensors", video)
    clip.unlink()


def use_latents(folder: Path) -> None:
    """Decode a latent file."""
    video = read(folder / "a.safetensors")
    model = load(str(folder / "model"), CPU, torch.float32)
    with torch.inference_mode():
        decode_video(model, video, folder.parent / "out.mp4")


def make_models(folder: Path) -> None:
    for name in EMBEDDERS:
        _save_model(name, _folder(folder, name) / "model")


def use_model(folder: Path) -> None:
    """Load a model and encode a clip."""
    name = str(folder / "model")
    weights_hash(name)
    model = load(name, CPU, torch.float32)
    with torch.inference_mode():
        model.encode(torch.zeros(1, 3, model.chunk_frames, 32, 32))


def make_configs(folder: Path) -> None:
    """The configuration of a run, in JSON and in TOML."""
    text = json.dumps(asdict(RECIPES["toy"]) | {"recipe": "toy"})
    (_folder(folder, "json") / "config.json").write_text(text)
    lines = ['recipe = "toy"', "[optimizer]", "learning-rate = 4e-4", "[loop]", "steps = 30", "seed = 1"]
    (_folder(folder, "toml") / "config.toml").write_text("\n".join([*lines, "[model]", "width = 64"]) + "\n")


def use_config(folder: Path) -> None:
    """Make a recipe of a file, as `regen train --config` does."""
    (path,) = folder.glob("config.*")
    configured(RECIPES["toy"], read_config(path), path)


def make_shard_sets(folder: Path) -> None:
    """Shards with an index, and sidecars."""
    corpus = make_corpus(folder / "corpus")
    make_shards(_folder(folder, "shards"), sorted(path for path in corpus.iterdir() if _is_media(path)))


def use_shards(folder: Path) -> None:
    """Read all samples, draw a clip, and index the tar files anew."""
    shards = ShardSet(str(folder))
    for number in range(min(len(shards), 6)):
        shards.info(number)
    data = ClipDataset([folder], decode_timeout=None)
    data.sample(0, ClipSpec(3, (16, 16)), seed=0)
    for path in sorted(folder.glob("*.tar")):
        for member in list_members(str(path), lambda seconds: None)[0]:
            read_member(member, lambda seconds: None)


def make_exports(folder: Path) -> None:
    """Exported latents of models with and without 1D latents."""
    corpus = make_corpus(folder / "corpus")
    for name, make in (("regen", make_model), ("hybrid", make_hybrid_model)):
        export(make(folder / f"{name}-model"), corpus, _folder(folder, f"{name}-latents"))


def use_exports(folder: Path) -> None:
    """Summarise a folder of latents and read all samples."""
    summarize(folder)
    data = LatentDataset(folder)
    for number in range(len(data)):
        data[number]


def make_checkpoints(folder: Path) -> None:
    run_tiny(_folder(folder, "run"), steps=4)


def use_checkpoints(folder: Path) -> None:
    """Show a run, read its weights, and resume it."""
    for run in read_runs([folder]):
        describe(run.summary())
    for path in list_checkpoints(folder / "checkpoints"):
        load_ema(path)
    run_tiny(folder, steps=4)


def make_captions(folder: Path) -> None:
    place = _folder(folder, "captions")
    (place / "a.mp4").touch()
    (place / "a.json").write_text('{"caption": "größer", "class": 7}')
    (place / "a.txt").write_text("a gradient, größer\r\n日本語\n", encoding="utf-16")
    (place / "a.cls").write_text("7")


EMBEDDERS = {"regen": tiny_regen, "magvit2": tiny_magvit2, "onedva": tiny_onedva, "linear": AutoencoderLinear}
TARGETS = {
    "media": Target(make_media, use_media),
    "latents": Target(make_latents, use_latents, lambda path: path.name == "a.safetensors"),
    "models": Target(make_models, use_model),
    "configs": Target(make_configs, use_config, lambda path: path.stem == "config"),
    "shards": Target(make_shard_sets, use_shards),
    "exports": Target(make_exports, use_exports, lambda path: "model" not in path.parent.name),
    "checkpoints": Target(make_checkpoints, use_checkpoints),
    "captions": Target(make_captions, lambda folder: read_sidecars(folder / "a.mp4"),
                       lambda path: path.suffix != ".mp4"),
}  # fmt: skip
MARKS = {"exports": MANIFEST, "shards": INDEX}  # folders without this file are inputs of others, not cases


def cases(folder: Path, kind: str) -> list[Path]:
    """The folders of a kind that `make_all` made below `folder`."""
    return sorted(p for p in (folder / kind).iterdir() if p.is_dir() and (p / MARKS.get(kind, "")).exists())


def make_all(folder: Path, kinds: Sequence[str]) -> None:
    """The inputs of these targets, each in a folder of its name."""
    silence_logging()
    os.environ["SVT_LOG"] = "0"
    for name in kinds:
        TARGETS[name].make(_folder(folder, name))


def _save_model(name: str, folder: Path) -> Any:
    torch.manual_seed(0)
    model = EMBEDDERS[name]()
    model.save_pretrained(folder)
    return model.eval()


def _folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir(parents=True, exist_ok=True)
    return parent / name


def _is_media(path: Path) -> bool:
    return path.suffix in (".mp4", ".mkv", ".png", ".jpg")
