"""Generators by name, with their embedder and text encoder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from regen.generate.generator import LatentGenerator
from regen.generate.text import TextEncoder, TextEncoderSpec, find_text_encoder
from regen.generate.video_generator import VideoGenerator
from regen.names import is_pipeline, published_models
from regen.pretrained.listing import available_generators, find_model, is_generator, stored_config
from regen.pretrained.models import Autoencoder, encoder_hash, load, load_as, weights_hash


def load_video_generator(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    embedder: str | None = None,
    text_encoder: str | None = None,
) -> VideoGenerator:
    """A generator with its embedder and text encoder, in evaluation mode.

    `embedder` and `text_encoder` replace the names in its config, for models that moved; a saved pipeline has
    its own. Raises ValueError when one of the three is missing or is not the one of the training.
    """
    folder = find_generator(name)
    model = load_as(LatentGenerator, folder, device, dtype)
    parts = folder.parent
    if not is_pipeline(parts):
        return VideoGenerator(
            model,
            load_embedder(model, name, device, dtype, embedder),
            load_text_encoder(model, name, device, dtype, text_encoder),
        )
    vae = load(embedder or str(parts / "vae"), device, dtype)
    config, text = model.config.text_encoder, None
    if config is not None:
        spec = find_text_encoder(text_encoder or str(parts / "text_encoder"), config["max_tokens"])
        text = spec.load(device, dtype)
    return VideoGenerator(model, vae, text)


def load_generator(name: str, device: torch.device, dtype: torch.dtype) -> LatentGenerator:
    """The generator `name` in evaluation mode. Raises ValueError when missing, damaged or an embedder."""
    return load_as(LatentGenerator, find_generator(name), device, dtype)


def find_generator(name: str) -> Path:
    """The folder of a generator, or of that of a pipeline. Raises ValueError when missing or an embedder."""
    try:
        folder = find_model(name, "generator")
    except ValueError:
        if name.count("/") == 1 or name in published_models() or Path(name).expanduser().is_dir():
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
    return folder


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
    encoder = text_encoder or (model.config.text_encoder or {}).get("name")
    with _advice(f"The text encoder {encoder} of the generator {name}", "--text-encoder"):
        spec = text_encoder_spec(model, text_encoder)
        return None if spec is None else spec.load(device, dtype)


def text_encoder_spec(model: LatentGenerator, text_encoder: str | None = None) -> TextEncoderSpec | None:
    """The text encoder of a generator, not loaded; see `load_text_encoder`."""
    config = model.config.text_encoder
    if config is None:
        return None
    spec = find_text_encoder(config["name"] if text_encoder is None else text_encoder, config["max_tokens"])
    if spec.fingerprint != config["fingerprint"]:
        wanted = config["fingerprint"]
        raise ValueError(f"{spec.name} must have the fingerprint {wanted}, got {spec.fingerprint}.")
    return spec


@contextmanager
def _advice(part: str, option: str) -> Iterator[None]:
    """Name the part of a generator and the option that replaces it in errors of the block."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{part} can't be loaded; give the right one by {option}. {error}") from None


def matches_embedder(model: LatentGenerator, embedder: str) -> bool:
    """Whether a generator makes the latents of this embedder, or of one with another decoder."""
    spec = model.latent_spec
    return weights_hash(embedder) == spec.weights_hash or encoder_hash(embedder) == spec.encoder_hash
