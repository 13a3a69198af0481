"""The commands reconstruct, encode, decode and models."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from regen.cli.files import check_different, check_videos, opened
from regen.cli.options import (
    DEFAULT_PATH,
    Background,
    Compare,
    DecodeModelOptions,
    DecoderOptions,
    FrameOptions,
    Input,
    Json,
    ModelOptions,
    Output,
    RateOptions,
    SizeText,
    decode_options,
    load_model,
    memory_limit,
    parse_colour,
    rate_target,
    timeline,
)
from regen.console import print_json, print_table, progress_bar, warn
from regen.io import check_output

if TYPE_CHECKING:
    from regen.codec.latent_file import LatentVideo
    from regen.codec.report import Report
    from regen.embedders.regen_decoder import RegenDecoder


def reconstruct(
    input: Input,
    output: Output,
    model: ModelOptions = ModelOptions(),
    decoder: DecoderOptions = DecoderOptions(),
    rate: RateOptions = RateOptions(),
    size: SizeText = None,
    compare: Compare = None,
    background: Background = "black",
    json: Json = False,
) -> None:
    """Encode and decode a video or image, and measure the result.

    Example: regen reconstruct in.mp4 -o out.mp4 --compare

    Args:
        input: The video or image: a file, a pipe (- is standard input), or an address such as https://host/a.mp4.
        output: The reconstruction, with the input's frame times and sound.
        size: Resize and crop to N x N, or height x width; by default the input's own size.
        compare: Also write the original above the reconstruction, to PATH or OUTPUT_compare. After INPUT.
        background: What transparent parts lie over: a colour such as white or #20a0ff.
        json: Print one JSON object as the last line of the output.
    """
    from regen.codec.transcode import reconstruct_video
    from regen.media.pixels import parse_size

    target_size = None if size is None else parse_size(size)
    options, memory = decode_options(decoder), memory_limit(model)
    lengths = rate_target(rate, options)
    if compare == DEFAULT_PATH:
        compare = output.with_stem(output.stem + "_compare")
    check_videos(output, compare, inputs=[input])
    colour = parse_colour(background)
    with opened(input, colour) as source, progress_bar("reconstruct") as on_progress:
        report = reconstruct_video(
            load_model(model),
            source,
            output,
            name=model.model,
            size=target_size,
            options=options,
            memory=memory,
            lengths=lengths,
            compare=compare,
            background=colour,
            on_progress=on_progress,
            on_warning=warn,
        )
    _show_report(report, [output] if compare is None else [output, compare], json)


def encode(
    input: Input,
    output: Output,
    model: ModelOptions = ModelOptions(),
    rate: RateOptions = RateOptions(),
    size: SizeText = None,
    background: Background = "black",
    json: Json = False,
) -> None:
    """Encode a video or image into a latent file, which has all that decoding needs.

    Example: regen encode in.mp4 -o latents.safetensors

    Args:
        input: The video or image: a file, a pipe (- is standard input), or an address such as https://host/a.mp4.
        output: The latent file, ending in .safetensors.
        size: Resize and crop to N x N, or height x width; by default the input's own size.
        background: What transparent parts lie over: a colour such as white or #20a0ff.
        json: Print one JSON object as the last line of the output.
    """
    from regen.codec import latent_file
    from regen.codec.transcode import encode_video
    from regen.media.pixels import parse_size
    from regen.pretrained.models import weights_hash

    target_size = None if size is None else parse_size(size)
    memory, lengths = memory_limit(model), rate_target(rate, decode_options(DecoderOptions()))
    check_output(output, (latent_file.SUFFIX,))
    check_different(output, input)
    colour = parse_colour(background)
    with opened(input, colour) as source, progress_bar("encode") as on_progress:
        video, report = encode_video(
            load_model(model),
            source,
            name=model.model,
            weights=weights_hash(model.model),
            size=target_size,
            memory=memory,
            lengths=lengths,
            background=colour,
            on_progress=on_progress,
            on_warning=warn,
        )
    latent_file.write(output, video)
    _show_report(report, [output], json)


def decode(
    input: Input,
    output: Output,
    model: DecodeModelOptions = DecodeModelOptions(),
    decoder: DecoderOptions = DecoderOptions(),
    frame: FrameOptions = FrameOptions(),
    source_fps: Annotated[float, arg(metavar="N")] = 24.0,
    json: Json = False,
) -> None:
    """Decode a latent file to a video or image, optionally with frames in between, before and after.

    Example: regen decode latents.safetensors -o out.mp4 --fps 60
    Latents of other programs: regen decode video.latent -o out.mp4 --model runs/decoder --source-fps 16

    Args:
        input: The latent file, made by `regen encode`; for a decoder of foreign latents also a tensor of
            diffusers (output_type="latent") in a .safetensors or .pt file, or a .latent file of ComfyUI.
        output: The video, with the sound and (by default) the frame times of the original.
        source_fps: Frames per second of latents that other programs wrote; they do not say it.
        json: Print one JSON object as the last line of the output.
    """
    from regen.codec import latent_file
    from regen.codec.foreign_latents import is_foreign
    from regen.codec.transcode import decode_video
    from regen.embedders.regen_decoder import RegenDecoder

    output_frames, options, memory = timeline(frame), decode_options(decoder), memory_limit(model)
    check_videos(output, inputs=[input])
    autoencoder: Any
    if is_foreign(input):
        autoencoder, video = load_foreign(input, model, source_fps)
    else:
        video = latent_file.read(input)
        model = replace(model, model=model.model or video.model)
        latent_file.check_model(input, video, model.model, weights_of(input, model.model, video))
        autoencoder = load_model(model)
        if isinstance(autoencoder, RegenDecoder):
            autoencoder.set_window(max(2, video.latents.shape[2]))  # that of the encoder; 1: an image
            video = replace(video, model=model.model)
    with progress_bar("decode") as on_progress:
        report = decode_video(
            autoencoder,
            video,
            output,
            timeline=output_frames,
            options=options,
            memory=memory,
            on_progress=on_progress,
        )
    _show_report(report, [output], json)


def load_foreign(path: Path, model: DecodeModelOptions, fps: float) -> "tuple[RegenDecoder, LatentVideo]":
    """The decoder, and the latents of a file of another program. Raises ValueError for another model."""
    from regen.codec.foreign_latents import read_foreign, read_tensor
    from regen.embedders.regen_decoder import RegenDecoder
    from regen.pretrained.models import weights_hash

    if not model.model:
        raise ValueError(f"{path} does not say how to decode it; give a decoder trained for it by --model.")
    if not 0 < fps < 1000:
        raise ValueError(f"--source-fps must be more than 0 and below 1000, got {fps}.")
    read_tensor(path)  # raises before the decoder is loaded
    decoder: Any = load_model(model)
    if not isinstance(decoder, RegenDecoder):
        raise ValueError(
            f"{path} holds latents of another program, which {model.model} can't decode; give a decoder "
            "trained for them (regen train decoder-small), or a file made by regen encode."
        )
    rate = Fraction(fps).limit_denominator(1001)
    return decoder, read_foreign(path, decoder.space, model.model, weights_hash(model.model), rate)


def weights_of(file: Path, name: str, video: "LatentVideo") -> str:
    """The hash of the model to decode `file`; of a decoder of foreign latents, that of their encoder.

    Raises ValueError, with advice, when it is missing.
    """
    from regen.pretrained.models import decodes_latents_of, weights_hash

    try:
        return video.weights if decodes_latents_of(name, video.weights) else weights_hash(name)
    except ValueError as error:
        advice = "pass its folder or owner/name by --model"
        raise ValueError(f"{file} was encoded with {video.model}; {advice}. {error}") from None


def models(json: Json = False) -> None:
    """List the models: video embedders, generators on their latents, and published ones to download.

    Example: regen models

    Args:
        json: Print one JSON object as the last line of the output.
    """
    from rich.table import Table

    from regen.names import published_models
    from regen.pretrained.listing import available, available_generators

    embedders, generators = available(), available_generators()
    local = {info.name for info in embedders} | {info.name for info in generators}
    published = sorted(published_models().items(), key=lambda item: item[1].kind)
    others = {name: model for name, model in published if name not in local}
    if json:
        lists = {"models": [*map(asdict, embedders)], "generators": [*map(asdict, generators)]}
        print_json(lists | {"published": [{"name": name, **asdict(model)} for name, model in others.items()]})
        return
    table = Table("embedder", "ratio", "latent channels", "parameters", "size", "where", box=None)
    for info in embedders:
        size = f"{info.parameters:,}", f"{info.megabytes:.1f} MB", info.where
        table.add_row(info.name, f"{info.ratio}x", str(info.latent_channels), *size)
    print_table(table)
    if generators:
        table = Table("generator", "of the latents of", "from", "parameters", "size", "where", box=None)
        for generator in generators:
            size = f"{generator.parameters:,}", f"{generator.megabytes:.1f} MB", generator.where
            table.add_row(generator.name, generator.embedder, generator.condition, *size)
        print_table(table)
    if others:
        table = Table("published, fetched when used", "kind", "size", "where", box=None)
        for name, model in others.items():
            table.add_row(name, model.kind, f"{model.size / 1e6:.1f} MB", model.repository)
        print_table(table)


def _show_report(report: "Report", files: Sequence[Path], as_json: bool) -> None:
    """Print the report as a table with the `files` written, or as one line of JSON."""
    from rich.table import Table

    if as_json:
        print_json(asdict(report))
        return
    shape = "x".join(map(str, report.latent_shape))
    rows = [
        ("model", report.model),
        ("frames", f"{report.frames}, at {report.fps:.5g} per second"),
        ("size", f"{report.width} wide, {report.height} high"),
        ("latents", f"{shape}, {report.compression:.1f}× compression"),
    ]
    if report.lengths is not None:
        low, high = min(report.lengths), max(report.lengths)
        rows.append(("1D latents", f"{low} to {high} in a chunk, {report.values_per_second:.0f} values/s"))

    def speed(seconds: float) -> str:
        return f"{seconds:.1f} s, {report.frames / seconds:.1f} frames per second"

    measured: list[tuple[str, Any, Callable[[Any], str]]] = [
        ("PSNR", report.psnr, "{:.2f} dB".format),
        ("SSIM", report.ssim, "{:.4f}".format),
        ("seams", report.seam_ratio, "{:.2f} times the jumps inside chunks (1: none visible)".format),
        ("encoding", report.encode_seconds, speed),
        ("decoding", report.decode_seconds, speed),
        ("tiles", report.tile, lambda tile: f"{tile[1]} wide, {tile[0]} high"),
        ("peak memory", report.peak_memory_mb, "{:.0f} MB".format),
    ]
    rows += [(name, show(value)) for name, value, show in measured if value is not None]
    rows.append(("written", ", ".join(map(str, files))))
    print_table(Table("", "", show_header=False, box=None), rows)
