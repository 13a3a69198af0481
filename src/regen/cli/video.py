"""The commands that use a model: reconstruct, encode, decode; and models, which lists those there are."""

from regen.cli.options import (
    DEFAULT_AMOUNT,
    DEFAULT_DECODING,
    DEFAULT_FRAMES,
    DEFAULT_USING,
    SOME_PATH,
    Compare,
    HowMany,
    Input,
    Json,
    Model,
    Output,
    Sampling,
    SizeText,
    Which,
    decode_options,
    load_model,
    memory_budget,
    rate_target,
    timeline,
)
from regen.console import progress_bar, warn


def reconstruct(
    input: Input,
    output: Output,
    using: Model = DEFAULT_USING,
    sampling: Sampling = DEFAULT_DECODING,
    amount: HowMany = DEFAULT_AMOUNT,
    size: SizeText = None,
    compare: Compare = None,
    json: Json = False,
) -> None:
    """Encode and decode a video or image, and measure the result.

    Example: regen reconstruct in.mp4 -o out.mp4 --compare

    Args:
        input: The video or image.
        output: The reconstruction, with the input's frame times and sound.
        size: Scale and cut out the centre: N x N, or height x width; by default the input's own size.
        compare: Also write original above reconstruction, by default to OUTPUT with _compare in its name.
            Without a PATH it stands after INPUT.
        json: Let the last line of the output be one JSON object.
    """
    from regen.cli.tables import show_report
    from regen.codec.transcode import reconstruct_video
    from regen.media.sizes import parse_size

    target = parse_size(size) if size is not None else None
    options, memory = decode_options(sampling), memory_budget(using)
    lengths = rate_target(amount, options)
    if compare == SOME_PATH:
        compare = output.with_stem(output.stem + "_compare")
    with progress_bar("reconstruct") as on_progress:
        report = reconstruct_video(
            load_model(using),
            input,
            output,
            name=using.model,
            size=target,
            options=options,
            memory=memory,
            lengths=lengths,
            compare=compare,
            on_progress=on_progress,
            on_warning=warn,
        )
    show_report(report, [output] if compare is None else [output, compare], json)


def encode(
    input: Input,
    output: Output,
    using: Model = DEFAULT_USING,
    amount: HowMany = DEFAULT_AMOUNT,
    size: SizeText = None,
    json: Json = False,
) -> None:
    """Write the latents of a video or image, with all that decoding needs, to a safetensors file.

    Example: regen encode in.mp4 -o latents.safetensors

    Args:
        input: The video or image.
        output: The latent file, ending in .safetensors.
        size: Scale and cut out the centre: N x N, or height x width; by default the input's own size.
        json: Let the last line of the output be one JSON object.
    """
    from regen.cli.tables import show_report
    from regen.codec import latent_file
    from regen.codec.transcode import encode_video
    from regen.media.sizes import parse_size
    from regen.pretrained import weights_hash

    target = parse_size(size) if size is not None else None
    memory, lengths = memory_budget(using), rate_target(amount, decode_options(DEFAULT_DECODING))
    latent_file.check_target(output)
    model = load_model(using)
    with progress_bar("encode") as on_progress:
        video, report = encode_video(
            model,
            input,
            name=using.model,
            weights=weights_hash(using.model),
            size=target,
            memory=memory,
            lengths=lengths,
            on_progress=on_progress,
            on_warning=warn,
        )
    latent_file.write(output, video)
    show_report(report, [output], json)


def decode(
    input: Input,
    output: Output,
    using: Model = DEFAULT_USING,
    sampling: Sampling = DEFAULT_DECODING,
    frames: Which = DEFAULT_FRAMES,
    json: Json = False,
) -> None:
    """Write the video or image that a latent file stands for, or frames between and beyond those encoded.

    Example: regen decode latents.safetensors -o out.mp4 --fps 60

    Args:
        input: The latent file, made by `regen encode` with the same model.
        output: The video, with the sound of the original, and its frame times unless others are asked for.
        json: Let the last line of the output be one JSON object.
    """
    from regen.cli.tables import show_report
    from regen.codec import latent_file
    from regen.codec.transcode import decode_video
    from regen.pretrained import weights_hash

    wanted, options, memory = timeline(frames), decode_options(sampling), memory_budget(using)
    video = latent_file.read(input)
    latent_file.check_model(input, video, using.model, weights_hash(using.model))
    with progress_bar("decode") as on_progress:
        report = decode_video(
            load_model(using),
            video,
            output,
            timeline=wanted,
            options=options,
            memory=memory,
            on_progress=on_progress,
        )
    show_report(report, [output], json)


def models(json: Json = False) -> None:
    """List the models that are here: embedders, and generators on their latents.

    Example: regen models

    Args:
        json: Let the last line of the output be one JSON object.
    """
    from regen.cli.tables import show_models
    from regen.pretrained import available, available_generators

    show_models(available(), available_generators(), json)
