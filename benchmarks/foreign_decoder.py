"""A decoder of foreign latents beside the autoencoder's own: memory over length, and the first frame.

Random weights in place of trained ones, which take neither other memory nor other time: a small
AutoencoderKLHunyuanVideo of diffusers, whose decoder holds the whole video, and a RegenDecoder for its
latents.
"""

import time
from functools import partial
from typing import Annotated

import torch
import tyro
from diffusers import AutoencoderKLHunyuanVideo
from report import finish, one_sentence_errors, use_threads

from regen.codec.sequence import SequenceDecodeSession
from regen.embedders.frozen_encoder import FrozenEncoder, adapter_of
from regen.embedders.regen_decoder import RegenDecoder
from regen.metrics.memory import peak_bytes

CPU = torch.device("cpu")
CHANNELS = 16
WIDTHS = (32, 64, 64, 64)


def build() -> tuple[AutoencoderKLHunyuanVideo, RegenDecoder]:
    """An autoencoder, and a decoder for its latents of about as many parameters."""
    torch.manual_seed(0)
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=CHANNELS, block_out_channels=WIDTHS, layers_per_block=1, norm_num_groups=8
    ).eval()
    space = FrozenEncoder(adapter_of(vae, 17), "random").space
    decoder = RegenDecoder(**vars(space), width=192, depth=4, heads=3, siren_width=64, attention_window=8)
    return vae, decoder.eval()


def main(
    frames: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N...")] = (17, 65, 257, 1001),
    side: int = 64,
    threads: int = 1,
) -> None:
    """Peak of the tensors of both decoders by the number of frames, and the time to the first one.

    Of the own decoder and of `RegenDecoder.wrap`, which return the frames as one tensor, with these; of a
    stream, whose frames are written at once, without.

    Args:
        frames: Numbers of frames, 1 more than multiples of 4.
        side: Height and width in pixels, a multiple of 8.
        threads: CPU threads.
    """
    if any(count % 4 != 1 or count < 5 for count in frames) or side % 8:
        raise ValueError("--frames must be 1 more than multiples of 4, and --side a multiple of 8.")
    use_threads(threads)
    vae, decoder = build()
    wrapped = RegenDecoder.wrap(vae, decoder)
    rows, results = [], []
    for count in frames:
        latents = torch.randn(1, CHANNELS, 1 + count // 4, side // 8, side // 8)
        session = SequenceDecodeSession(decoder, height=side, width=side)

        def stream(latents: torch.Tensor = latents, session: SequenceDecodeSession = session) -> None:
            for _ in session.decode((latent, None) for latent in latents[0].unbind(1)):
                pass  # a writer takes the frames

        with torch.inference_mode():
            own = peak_bytes(partial(vae.decode, latents))
            whole = peak_bytes(partial(wrapped.decode, latents))
            ours = peak_bytes(stream)
            start = time.perf_counter()
            session.reset()
            session.feed(latents[0, :, 0])
            first = time.perf_counter() - start
        results.append(
            {"frames": count, "own_mb": own / 1e6, "wrapped_mb": whole / 1e6, "stream_mb": ours / 1e6,
             "first_ms": 1e3 * first}
        )  # fmt: skip
        rows.append([f"{count}", *(f"{peak / 1e6:.1f}" for peak in (own, whole, ours)), f"{1e3 * first:.1f}"])
    columns = ("frames", "own decoder, MB", "wrapped, MB", "stream, MB", "first frame, ms")
    title = f"{side}x{side}, fp32: peak of tensors besides weights"
    finish(title, columns, rows, {"benchmark": "foreign_decoder", "side": side, "rows": results}, CPU)


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
