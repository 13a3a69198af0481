"""The command preview."""

from pathlib import Path

from regen.cli.options import Input, Name, Output
from regen.cli.video import weights_of


def preview(input: Input, output: Output, model: Name = None) -> None:
    """Show a latent file without its decoder: blurred frames by a linear map, many hundreds a second.

    Example: regen preview latents.safetensors -o preview.mp4

    Args:
        input: The latent file, made by `regen encode`.
        output: A video, or an image with frames from the beginning to the end.
        model: The model that made the latents; by default the one that the file names.
    """
    import torch

    from regen.codec import latent_file
    from regen.codec.preview import preview_frames
    from regen.generate.run import write_contact_sheet
    from regen.media.files import is_image
    from regen.media.writer import VideoWriter
    from regen.pretrained.models import find_model, stored_config

    video = latent_file.read(input)
    name = model or video.model
    latent_file.check_model(input, video, name, weights_of(input, name, video.model))
    config = stored_config(find_model(name))
    if config.get("preview") is None:
        raise ValueError(f"The model {name} has no preview; use regen decode.")
    frames = preview_frames(video, config["preview"], config["spatial_compression_ratio"])
    if is_image(output) and len(video.times) > 1:
        write_contact_sheet(Path(output), [(torch.stack(list(frames)), input.name)])
    else:
        with VideoWriter(output, video.width, video.height, video.frame_rate) as writer:
            for frame, time in zip(frames, video.times.tolist(), strict=True):
                writer.write(frame, time)
    print(output)
