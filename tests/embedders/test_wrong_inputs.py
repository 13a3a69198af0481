"""Videos and latents of another shape or type: one sentence that says what the embedder takes."""

import subprocess
import sys
from pathlib import Path

TINY = Path(__file__).parents[1] / "tiny"
# In a process of its own: in this one each annotation of a shape is checked before the embedder looks at it.
SCRIPT = """
import torch
from regen import AutoencoderLinear
from regen.embedders.frozen_encoder import FrozenEncoder
from regen.embedders.regen_decoder import RegenDecoder
from tiny_media import tiny_magvit2, tiny_onedva, tiny_regen

def zeros(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)

linear = AutoencoderLinear(4, 8)
decoder = RegenDecoder(
    width=32, depth=1, heads=2, siren_width=16, latent_channels=8, temporal_compression_ratio=4,
    chunk_frames=5,
)
decoder.attach_encoder(FrozenEncoder(linear, "linear"))
VIDEOS = [
    zeros(3, 5, 16, 16), zeros(5, 3, 16, 16), zeros(3, 16, 16), zeros(1, 5, 3, 16, 16),
    zeros(1, 1, 5, 16, 16), zeros(1, 4, 5, 16, 16), zeros(1, 3, 5, 16, 16, dtype=torch.uint8),
    zeros(1, 3, 5, 16, 16, dtype=torch.int64), zeros(0, 3, 5, 16, 16), zeros(1, 3, 0, 16, 16),
    zeros(1, 3, 5, 0, 16), torch.tensor(0.0), None, [1, 2],
]
for model in (linear, tiny_regen(), tiny_magvit2(), tiny_onedva(), decoder):
    name, channels = type(model).__name__, model.latent_channels
    latents = [
        zeros(channels, 2, 2, 2), zeros(1, channels + 1, 2, 2, 2), zeros(1, channels, 2, 2), zeros(channels),
        zeros(1, channels, 2, 2, 2, dtype=torch.uint8), zeros(0, channels, 2, 2, 2),
        zeros(1, channels, 0, 2, 2), zeros(1, channels, 2, 2, 0), torch.tensor(0.0), None, [1, 2],
    ]
    calls = [(call, video) for call in (model, model.encode) for video in VIDEOS]
    for call, value in [*calls, *((model.decode, value) for value in latents)]:
        try:
            with torch.no_grad():
                call(value)
        except ValueError as error:
            text = str(error)
            assert text.startswith(name) and text.endswith(".") and "\\n" not in text, text
            assert ("b c n y x" if call == model.decode else "b 3 t h w") in text and "got " in text, text
        else:
            raise AssertionError((name, call, value))
    video = torch.zeros(1, 3, model.chunk_frames, 16, 16)
    with torch.no_grad():
        assert model(video).sample.shape == model(video.double()).sample.shape == video.shape
print("all refused")
"""


def test_all_embedders_say_what_they_take() -> None:
    code = f"import sys; sys.path.insert(0, {str(TINY)!r})\n{SCRIPT}"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.stdout.strip(), ran.returncode) == ("all refused", 0), ran.stderr[-2000:]
