"""The commands preview and fit-preview."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from regen.cli.files import check_videos
from regen.cli.options import Input, Name, Output
from regen.cli.video import weights_of

if TYPE_CHECKING:
    from regen.codec.latent_file import LatentVideo
    from regen.embedders.frozen_encoder import LatentSpace
    from regen.embedders.preview import RgbFactors

Factors = Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")]


def preview(input: Input, output: Output, model: Name = None, factors: Factors = None) -> None:
    """Show a latent file without its decoder: blurred frames by a linear map, hundreds of times as fast.

    Example: regen preview latents.safetensors -o preview.mp4

    Args:
        input: The latent file, made by `regen encode`; with --factors or a decoder of foreign latents as
            --model also one that `regen decode` takes.
        output: A video without sound, or an image with frames from the beginning to the end.
        model: The model that made the latents; by default the one that the file names.
        factors: The map of an autoencoder of diffusers, made by `regen fit-preview`.
    """
    import torch

    from regen.codec.preview import preview_frames, preview_video
    from regen.generate.run import SHEET_FRAMES, write_contact_sheet
    from regen.media.files import is_image

    check_videos(output, inputs=[input])
    video, rgb_factors, ratio = _open(input, model, factors)
    count = len(video.times)
    if is_image(output) and count > 1:
        numbers = sorted({*torch.linspace(0, count - 1, SHEET_FRAMES).round().long().tolist()})
        frames = torch.stack([*preview_frames(video, rgb_factors, ratio, numbers)])
        write_contact_sheet(output, [(frames, input.name)])
    else:
        preview_video(video, rgb_factors, ratio, output)
    print(output)


def _open(path: Path, name: str | None, factors: Path | None) -> "tuple[LatentVideo, RgbFactors, int]":
    """The latents of a file, the factors of their preview, and pixels along a side of a latent."""
    from dataclasses import fields
    from fractions import Fraction

    from regen.codec import latent_file
    from regen.codec.foreign_latents import is_foreign, read_foreign
    from regen.embedders.frozen_encoder import LatentSpace
    from regen.pretrained.listing import find_model, stored_config

    if factors is not None:
        space, rgb_factors = read_factors(factors)
        video = read_foreign(path, space, space.encoder, space.encoder_hash, Fraction(24))
        return video, rgb_factors, space.spatial_compression_ratio
    if is_foreign(path) and name is None:
        raise ValueError(f"{path} does not say what made it; give --factors, made by regen fit-preview.")
    if name is not None and is_foreign(path):
        config = stored_config(find_model(name))
        known = {part.name for part in fields(LatentSpace)}
        space = LatentSpace(**{key: value for key, value in config.items() if key in known})
        video = read_foreign(path, space, name, "", Fraction(24))
    else:
        video = latent_file.read(path)
        name = name or video.model
        latent_file.check_model(path, video, name, weights_of(path, name, video))
        config = stored_config(find_model(name))
    if config.get("latent_rgb_factors") is None:
        raise ValueError(f"{name} has no preview; fit one with regen fit-preview, or use regen decode.")
    return video, config["latent_rgb_factors"], config["spatial_compression_ratio"]


def read_factors(path: Path) -> "tuple[LatentSpace, RgbFactors]":
    """The latent space and the factors in a file. Raises ValueError when it is damaged."""
    from regen.embedders.frozen_encoder import LatentSpace
    from regen.io import parse_json

    try:
        content = parse_json(path.read_bytes())
        return LatentSpace.parse(content["latent_space"]), content["latent_rgb_factors"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} must be a file made by regen fit-preview; fit the preview again.") from None


def fit_preview(
    model: Annotated[Positional[str], arg(metavar="NAME")],
    data: Annotated[tuple[str, ...], arg(metavar="PATH [PATH ...]")],
    output: Annotated[Path | None, arg(aliases=("-o",), metavar="PATH", help_behavior_hint="")] = None,
    clips: int = 64,
    short_side: int = 160,
) -> None:
    """Fit the preview of a model, or of any autoencoder, to videos: the linear map of `regen preview`.

    Example: regen fit-preview Wan-AI/Wan2.1-T2V-1.3B-Diffusers --data clips/ -o wan.json

    Args:
        model: A model of regen, whose config then has the map (training fits it by itself), or an
            autoencoder of diffusers: a folder, owner/name or owner/name/folder.
        data: Folders or files of videos.
        output: File for the map; needed for an autoencoder of diffusers.
        clips: Clips of 64 x 64 pixels to which it is fitted.
        short_side: Size to which larger videos are reduced first.
    """
    import json
    from dataclasses import asdict

    import torch

    from regen.console import progress_bar
    from regen.data.clips import ClipDataset
    from regen.embedders.frozen_encoder import describe
    from regen.embedders.preview import fit_rgb_factors
    from regen.io import check_output, write_text
    from regen.names import CONFIG
    from regen.pretrained.listing import find_model
    from regen.pretrained.models import Autoencoder, load_embedder

    if clips < 1:
        raise ValueError(f"--clips must be at least 1, got {clips}.")
    if output is not None:
        check_output(output)
    videos = ClipDataset(data, short_side=short_side)
    embedder = load_embedder(model, torch.device("cpu"), torch.float32)
    is_ours = isinstance(embedder, Autoencoder)
    if output is None and not is_ours:
        raise ValueError(f"{model} has no config of regen that could hold the map; give a file by -o.")
    videos.require_length(embedder.chunk_frames)
    side = max(64, 4 * embedder.spatial_compression_ratio)
    with progress_bar("fit") as on_progress:

        def read(i: int) -> torch.Tensor:
            on_progress(i + 1, clips)
            return videos.read(i, embedder.chunk_frames, (side, side), (0.8, 1.0), 0)[None]

        factors = fit_rgb_factors(embedder, map(read, range(clips)))
    if output is None:
        output = find_model(model) / CONFIG
        content = json.loads(output.read_text(encoding="utf-8")) | {"latent_rgb_factors": factors}
        content = dict(sorted(content.items()))
    else:
        content = {"latent_space": asdict(describe(embedder, model)), "latent_rgb_factors": factors}
    write_text(output, json.dumps(content, indent=2) + "\n")
    print(output)
