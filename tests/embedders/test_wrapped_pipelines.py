"""Whole pipelines of diffusers, whose autoencoder decodes by a RegenDecoder."""

import gc
import weakref
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers import DiffusionPipeline, WanVideoToVideoPipeline
from diffusers.utils import logging
from processors import ATTENTION_IN_BF16
from tests.embedders.test_regen_decoder import decoder_of
from tiny_pipelines import PIPELINES
from torch import Tensor

from regen import RegenDecoder
from regen.codec.foreign_latents import read_foreign
from regen.embedders.frozen_encoder import FrozenEncoder, adapter_of

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # Mochi's transformer in fp32
SIDES = {
    "wan-2.2": (32, 64),
    "hunyuan-1.5": (64, 64),
    "ltx": (64, 96),
    "ltx-2": (64, 96),
    "ltx-with-noise": (64, 96),
}


@pytest.fixture(autouse=True)
def quiet() -> None:
    """No warnings of diffusers, such as that of experimental guiders; `same_settings` undoes it."""
    logging.set_verbosity(logging.ERROR)


def wrapped_pipeline(name: str) -> tuple[Any, RegenDecoder, dict[str, Any]]:
    """A pipeline with a wrapped autoencoder, its decoder, and the arguments of a call for 3 latent frames."""
    torch.manual_seed(0)
    make_vae, make_pipeline = PIPELINES[name]
    vae = make_vae()
    model = decoder_of(FrozenEncoder(adapter_of(vae, 17), name))
    pipe, arguments = make_pipeline(vae)
    pipe.set_progress_bar_config(disable=True)
    pipe.vae = RegenDecoder.wrap(vae, model)
    height, width = SIDES.get(name, (32, 48))
    frames = 1 + 2 * model.temporal_compression_ratio
    arguments |= {"height": height, "width": width, "num_frames": frames, "num_inference_steps": 2}
    return pipe, model, arguments


def run(pipe: Any, arguments: dict[str, Any], output_type: str) -> Any:
    return pipe(**arguments, output_type=output_type, generator=torch.Generator().manual_seed(0)).frames


def stored(pipe: Any, model: RegenDecoder, latents: Tensor, path: Path) -> Tensor:
    """Latents of a pipeline in a file, read as `regen decode` does it; those of LTX unpacked first."""
    if latents.ndim == 3:
        height, width = (side // model.spatial_compression_ratio for side in SIDES["ltx"])
        latents = pipe._unpack_latents(latents, 3, height, width)
    torch.save(latents, path)
    return read_foreign(path, model.space, "decoder", "hash", Fraction(24)).latents.grid


@pytest.mark.parametrize("name", PIPELINES)
def test_frames_of_a_pipeline_are_those_of_its_latents(name: str, tmp_path: Path):
    pipe, model, arguments = wrapped_pipeline(name)
    frames = run(pipe, arguments, "np")
    assert frames.shape == (1, *(arguments[side] for side in ("num_frames", "height", "width")), 3)
    assert 0 <= frames.min() < 0.45 and 0.55 < frames.max() <= 1, "and not all of them are clamped"
    latents = stored(pipe, model, run(pipe, arguments, "latent"), tmp_path / "latents.pt")
    expected = model.decode(latents).sample / 2 + 0.5
    tolerance = 0.005 if name == "cosmos" else 1e-4  # its checks take frames of 8 bits
    shown = expected[0].permute(1, 2, 3, 0).clamp(0, 1).numpy()
    np.testing.assert_allclose(frames[0], shown, atol=tolerance)


@ATTENTION_IN_BF16
@pytest.mark.parametrize("name", ["wan", "hunyuan", "cogvideox", "ltx", "mochi"])
def test_pipelines_in_half_precision(name: str):
    pipe, model, arguments = wrapped_pipeline(name)
    half = {key: value.bfloat16() if "embeds" in key else value for key, value in arguments.items()}
    pipe.to(torch.bfloat16)
    assert pipe.vae.dtype == model.dtype == torch.bfloat16
    frames = run(pipe, half, "pt")
    assert frames.dtype == torch.bfloat16 and frames.shape[1] == arguments["num_frames"]
    latents = torch.randn(1, model.latent_channels, 3, 2, 2)
    raw = pipe.vae.decode(latents.bfloat16()).sample
    pipe.to(torch.float32)
    torch.testing.assert_close(raw.float(), pipe.vae.decode(latents).sample, atol=0.1, rtol=0.1)


def test_offloading():
    """Of models, before wrapping and after it, and of layers; the hook runs before the decoder is used."""
    pipe, model, arguments = wrapped_pipeline("wan")
    expected = run(pipe, arguments, "np")

    def check() -> None:
        for _ in range(2):
            np.testing.assert_allclose(run(pipe, arguments, "np"), expected, atol=1e-5)

    pipe.enable_model_cpu_offload(device="cpu")
    check()
    pipe.vae = RegenDecoder.wrap(pipe.vae, model)
    check()
    pipe.remove_all_hooks()
    called: list[torch.nn.Module] = []
    hook = ModelHook()
    hook.pre_forward = lambda module, *args, **options: called.append(module)
    add_hook_to_module(pipe.vae, hook)
    pipe.vae.decode(torch.randn(1, model.latent_channels, 1, 2, 2))
    assert called == [pipe.vae]
    remove_hook_from_module(pipe.vae)
    for part in (pipe.transformer, pipe.vae):
        cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)
    check()
    with pytest.raises(ValueError, match="before its weights are offloaded"):
        RegenDecoder.wrap(pipe.vae, model)


def test_other_pipelines_of_the_same_parts_and_another_decoder_take_the_wrapped_one():
    pipe, model, arguments = wrapped_pipeline("wan")
    assert WanVideoToVideoPipeline.from_pipe(pipe).vae is pipe.vae
    first = run(pipe, arguments, "np")
    again = RegenDecoder.wrap(pipe.vae, model, steps=2)
    raw = torch.randn(1, model.latent_channels, 2, 2, 2)
    assert not torch.equal(again.decode(raw).sample, pipe.vae.decode(raw).sample)
    pipe.vae = again
    assert run(pipe, arguments, "np").shape == first.shape


def test_a_wrapped_autoencoder_is_not_saved_in_one_sentence(tmp_path: Path):
    pipe, _, _ = wrapped_pipeline("wan")
    with pytest.raises(ValueError, match=r"is not saved: save the pipeline with its own, .* loading\.$"):
        pipe.save_pretrained(tmp_path)
    assert isinstance(pipe, DiffusionPipeline)


def test_the_decoder_that_it_replaces_takes_no_memory():
    torch.manual_seed(0)
    vae = PIPELINES["wan"][0]()
    model = decoder_of(FrozenEncoder(adapter_of(vae, 17), "wan"))
    model._encoder = None
    own = weakref.ref(vae.decoder)
    vae = RegenDecoder.wrap(vae, model)
    gc.collect()
    assert own() is None and vae.decoder is model
