"""Generators by name, with their embedder and text encoder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from regen.generate.generator import LatentGenerator
from regen.generate.pipeline import RegenTextToVideoPipeline
from regen.generate.text import TextEncoder, find_text_encoder
from regen.generate.video_generator import VideoGenerator
from regen.latents import Latents
from regen.losses.one_dva import Predictor, denoised
from regen.pretrained.models import (
    Autoencoder,
    available_generators,
    encoder_hash,
    find_model,
    is_generator,
    load,
    load_as,
    stored_config,
    weights_hash,
)

DEFAULT_GENERATOR = "t2v-world"


def load_video_generator(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    embedder: str | None = None,
    text_encoder: str | None = None,
) -> VideoGenerator:
    """A generator with its embedder and text encoder, in evaluation mode.

    `embedder` and `text_encoder` replace the names in its config, for models that moved. Raises ValueError
    when one of the three is missing or is not the one of the training.
    """
    model = load_generator(name, device, dtype)
    return VideoGenerator(
        model,
        load_embedder(model, name, device, dtype, embedder),
        load_text_encoder(model, name, device, dtype, text_encoder),
    )


def load_pipeline(
    name: str, device: torch.device, dtype: torch.dtype, **names: str | None
) -> RegenTextToVideoPipeline:
    """The diffusers pipeline of a generator; `names`: see `load_video_generator`."""
    videos = load_video_generator(name, device, dtype, **names)
    text = () if videos.text_encoder is None else (videos.text_encoder.model, videos.text_encoder.tokenizer)
    return RegenTextToVideoPipeline(videos.model, videos.embedder, *text)


def load_generator(name: str, device: torch.device, dtype: torch.dtype) -> LatentGenerator:
    """The generator `name` in evaluation mode. Raises ValueError when missing, damaged or an embedder."""
    try:
        folder = find_model(name)
    except ValueError:
        if name.count("/") == 1 or Path(name).expanduser().is_dir():
            raise
        known = ", ".join(info.name for info in available_generators()) or "none yet"
        raise ValueError(
            f"There is no generator {name}; give a name ({known}), the folder of a run of regen train, or a "
            "Hub repository as owner/name."
        ) from None
    stored_config(folder)  # raises for an unfinished run
    if not is_generator(folder):
        raise ValueError(
            f"{name} is an embedder, for regen reconstruct; give a generator (see regen models)."
        )
    return load_as(LatentGenerator, folder, device, dtype)


def load_embedder(
    model: LatentGenerator, name: str, device: torch.device, dtype: torch.dtype, embedder: str | None = None
) -> Autoencoder:
    """The embedder, by default that of the config; its decoder may differ. Raises ValueError for others."""
    embedder = model.latent_spec.embedder if embedder is None else embedder
    with _advice(f"The embedder {embedder} of the generator {name}", "--embedder"):
        if not matches_embedder(model, embedder):
            found = weights_hash(embedder)
            raise ValueError(f"It must have the hash {model.latent_spec.weights_hash}, got {found}.")
        return load(embedder, device, dtype)


def load_text_encoder(
    model: LatentGenerator,
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    text_encoder: str | None = None,
) -> TextEncoder | None:
    """The text encoder, by default that of the config, if any. Raises ValueError when missing or another."""
    config = model.config.text_encoder
    if config is None:
        return None
    encoder = config["name"] if text_encoder is None else text_encoder
    with _advice(f"The text encoder {encoder} of the generator {name}", "--text-encoder"):
        spec = find_text_encoder(encoder, config["max_tokens"])
        if spec.fingerprint != config["fingerprint"]:
            wanted = config["fingerprint"]
            raise ValueError(f"It must have the fingerprint {wanted}, got {spec.fingerprint}.")
        return spec.load(device, dtype)


@contextmanager
def _advice(part: str, option: str) -> Iterator[None]:
    """Name the part of a generator and the option that replaces it in errors of the block."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{part} can't be loaded; give the right one by {option}. {error}") from None


def load_predictor(name: str, initial_model: str | None, device: torch.device) -> Predictor:
    """An unconditional generator as the predictor of latents in post-training (One-DVA).

    `initial_model` names the model to post-train. Raises ValueError unless the generator makes its latents.
    """
    model = load_generator(name, device, torch.float32)
    if initial_model is None or not matches_embedder(model, initial_model):
        spec = model.latent_spec
        raise ValueError(
            f"The generator {name} makes latents of {spec.embedder} (hash {spec.weights_hash}), not of the "
            "model to post-train; give that one by --init.model."
        )
    return make_predictor(model)


def make_predictor(model: LatentGenerator) -> Predictor:
    """The predictor of a generator of latents with 1D latents."""

    def velocity(noisy: Latents, t: Float[Tensor, " b"]) -> Latents:
        return model.velocity(noisy, t, model.unconditional(len(t)))

    return denoised(velocity)


def matches_embedder(model: LatentGenerator, embedder: str) -> bool:
    """Whether a generator makes the latents of this embedder, or of one with another decoder."""
    spec = model.latent_spec
    return weights_hash(embedder) == spec.weights_hash or encoder_hash(embedder) == spec.encoder_hash
