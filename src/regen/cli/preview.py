"""The command preview."""

from regen.cli.options import Input, Name, Output
from regen.cli.video import weights_of


def preview(input: Input, output: Output, model: Name = None) -> None:
    """Show a latent file without its decoder: blurred frames by a linear map, hundreds of times as fast.

    Example: regen preview latents.safetensors -o preview.mp4

    Args:
        input: The latent file, made by `regen encode`.
        output: A video without sound, or an image with frames from the beginning to the end.
        model: The model that made the latents; by default the one that the file names.
    """
    import torch

    from regen.codec import latent_file
    from regen.codec.preview import preview_frames, preview_video
    from regen.generate.run import SHEET_FRAMES, write_contact_sheet
    from regen.media.files import is_image
    from regen.pretrained.listing import find_model, stored_config

    video = latent_file.read(input)
    name = model or video.model
    latent_file.check_model(input, video, name, weights_of(input, name, video.model))
    config = stored_config(find_model(name))
    factors = config.get("latent_rgb_factors")
    if factors is None:
        raise ValueError(f"{name} has no preview; fit one with tools/fit_preview.py, or use regen decode.")
    ratio, count = config["spatial_compression_ratio"], len(video.times)
    if is_image(output) and count > 1:
        numbers = sorted({*torch.linspace(0, count - 1, SHEET_FRAMES).round().long().tolist()})
        frames = torch.stack([*preview_frames(video, factors, ratio, numbers)])
        write_contact_sheet(output, [(frames, input.name)])
    else:
        preview_video(video, factors, ratio, output)
    print(output)
