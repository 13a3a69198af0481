"""The checks of diffusers' own testers of models and of their training, on each embedder."""

import copy
import inspect
import logging
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_dispatch import attention_backend
from diffusers.training_utils import EMAModel
from tiny_media import EMBEDDERS, same_latents
from torch import Tensor
from torch.nn import functional as F

from regen.embedders.linear import AutoencoderLinear
from regen.latents import Latents
from regen.pretrained.models import Autoencoder

MODELS = EMBEDDERS | {"linear": lambda: AutoencoderLinear(latent_channels=4)}
PER_MODEL = pytest.mark.parametrize("name", MODELS)
TRAINED = pytest.mark.parametrize("name", EMBEDDERS)


def video(model: Autoencoder, batch: int = 1) -> Tensor:
    noise = torch.Generator().manual_seed(1)
    return torch.rand(batch, 3, model.chunk_frames, 16, 32, generator=noise) * 2 - 1


@PER_MODEL
def test_the_forward_signature(name: str) -> None:
    expected = ["self", "sample", "sample_posterior", "return_dict", "generator"]
    assert list(inspect.signature(type(MODELS[name]()).forward).parameters)[:5] == expected


@PER_MODEL
@torch.no_grad()
def test_output_shape_determinism_and_tuples(name: str) -> None:
    model = MODELS[name]()
    first, second = model(video(model)).sample, model(video(model), return_dict=False)
    assert isinstance(second, tuple) and first.shape == video(model).shape
    torch.testing.assert_close(first, second[0], atol=1e-5, rtol=0)
    assert bool(torch.isfinite(first).all())


@PER_MODEL
@torch.no_grad()
def test_sampled_latents_are_those_of_the_generator(name: str) -> None:
    model, sample = MODELS[name](), video(MODELS[name]())

    def decode(seed: int) -> Tensor:
        return model(sample, sample_posterior=True, generator=torch.Generator().manual_seed(seed)).sample

    assert torch.equal(decode(1), decode(1))
    has_variances = model.config.get("kl_weight", 0) > 0
    assert torch.equal(decode(1), decode(2)) == (not has_variances)
    posterior = model.encode(sample).latent_dist
    assert same_latents(Latents.of(posterior.mean), Latents.of(posterior.mode()))


@PER_MODEL
@pytest.mark.parametrize("options", [{}, {"variant": "fp16"}, {"max_shard_size": "20KB"}], ids=str)
@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(name: str, options: dict, tmp_path: Path) -> None:
    model = MODELS[name]()
    model.save_pretrained(tmp_path, **options)
    variant = {"variant": options["variant"]} if "variant" in options else {}
    if variant:
        with pytest.raises(ValueError, match="it has no diffusion_pytorch_model.safetensors"):
            type(model).from_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, **variant)
    assert {key: value.shape for key, value in loaded.state_dict().items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }
    expected = model(video(model)).sample
    torch.testing.assert_close(loaded(video(model)).sample, expected, atol=5e-5, rtol=5e-5)


@PER_MODEL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("low_memory", [True, False])
def test_saved_and_loaded_in_another_precision(
    name: str, dtype: torch.dtype, low_memory: bool, tmp_path: Path
) -> None:
    model = MODELS[name]().to(dtype)
    if model._keep_in_fp32_modules and not low_memory:
        pytest.skip("diffusers loads models with fp32 modules with low_cpu_mem_usage only")
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, torch_dtype=dtype, low_cpu_mem_usage=low_memory)
    assert loaded.dtype == dtype
    fp32 = tuple(model._keep_in_fp32_modules or ())
    for key, parameter in loaded.named_parameters():
        kept = any(part in fp32 for part in key.split("."))
        assert parameter.dtype == (torch.float32 if kept else dtype), key


def test_casting_a_model_with_fp32_modules_warns(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("diffusers")
    logger.propagate, before = True, logger.propagate
    try:
        with caplog.at_level(logging.WARNING, "diffusers"):
            MODELS["regen"]().to(torch.float16)
    finally:
        logger.propagate = before
    assert "should be kept in float32: ['siren']" in caplog.text


@PER_MODEL
def test_attributes(name: str) -> None:
    model = MODELS[name]()
    model.dummy_attribute = 5
    model.register_to_config(test_attribute=6)
    assert model.dummy_attribute == 5
    with pytest.warns(FutureWarning):
        assert model.test_attribute == 6
    with pytest.raises(AttributeError, match=f"'{type(model).__name__}' object has no attribute 'nothing'"):
        model.nothing  # noqa: B018


@PER_MODEL
def test_training_with_a_moving_average(name: str) -> None:
    model = MODELS[name]().train()
    average = EMAModel(model.parameters())
    F.mse_loss(model(video(model)).sample, torch.randn(video(model).shape)).backward()
    assert any(parameter.grad is not None for parameter in model.parameters())
    average.step(model.parameters())


@TRAINED
def test_gradient_checkpointing_is_switched_applied_and_equivalent(name: str) -> None:
    model = MODELS[name]().train()
    assert not model.is_gradient_checkpointing
    other = copy.deepcopy(model)
    other.enable_gradient_checkpointing()
    assert other.is_gradient_checkpointing
    networks = [part for part in other.modules() if hasattr(part, "gradient_checkpointing")]
    assert networks and all(network.gradient_checkpointing for network in networks)
    for each in (model, other):
        each(video(each)).sample.mean().backward()
    for (key, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), key
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, atol=5e-5, rtol=1e-4)
    other.disable_gradient_checkpointing()
    assert not other.is_gradient_checkpointing


@TRAINED
def test_mixed_precision_training(name: str) -> None:
    model = MODELS[name]().train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.mse_loss(model(video(model)).sample, torch.randn(video(model).shape))
    loss.backward()
    assert bool(torch.isfinite(loss))


@TRAINED
@torch.no_grad()
def test_attention_backends_agree(name: str) -> None:
    model = MODELS[name]()
    expected = model(video(model)).sample
    with attention_backend("native"):  # restores the global backend, which set_attention_backend also sets
        model.set_attention_backend("_native_math")
        torch.testing.assert_close(model(video(model)).sample, expected, atol=1e-4, rtol=1e-4)
        model.reset_attention_backend()
