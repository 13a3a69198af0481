"""Generators by name, with the embedder of their latents and their text encoder, and no others."""

from pathlib import Path

import torch

from regen.generate.generator import LatentGenerator
from regen.generate.predictor import matches_embedder
from regen.generate.text import TextEncoder, find_text_encoder
from regen.generate.video_generator import VideoGenerator
from regen.pretrained.models import (
    Autoencoder,
    available_generators,
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
    text: str | None = None,
) -> VideoGenerator:
    """The generator called `name` and all that it takes to make videos, in evaluation mode.

    `embedder` and `text` say where its embedder and text encoder are, when they are not where they were in
    its training. Raises ValueError when one of the three is not there, or is not what it was.
    """
    model = load_generator(name, device, dtype)
    return VideoGenerator(
        model,
        load_embedder(model, name, device, dtype, embedder),
        load_text(model, name, device, dtype, text),
    )


def load_generator(name: str, device: torch.device, dtype: torch.dtype) -> LatentGenerator:
    """The generator called `name`, in evaluation mode; see `regen.pretrained` for what a name means.

    Raises ValueError when there is none, when it is damaged, and when it is an embedder.
    """
    try:
        folder = find_model(name)
    except ValueError:
        if name.count("/") == 1 or Path(name).expanduser().is_dir():
            raise
        known = ", ".join(facts.name for facts in available_generators()) or "none yet"
        raise ValueError(
            f"There is no generator {name}; use one of those here ({known}), the folder of one that you "
            "trained by regen train, or a repository on the Hub as owner/name."
        ) from None
    stored_config(folder)  # which tells of a run that is not finished
    if not is_generator(folder):
        raise ValueError(
            f"{name} makes no videos from a text or a class: it is an embedder, for regen reconstruct; give "
            "a generator, see regen models."
        )
    return load_as(LatentGenerator, folder, device, dtype)


def load_embedder(
    model: LatentGenerator, name: str, device: torch.device, dtype: torch.dtype, given: str | None = None
) -> Autoencoder:
    """The embedder whose latents a generator makes: `given`, or the one that it names itself.

    One that differs in its decoder alone, such as one that was post-trained, is as good. Raises ValueError
    when it is not there, and when its latents are not those that the generator learned from.
    """
    wanted = model.latent_spec.weights_hash
    embedder = model.latent_spec.embedder if given is None else given
    try:
        found = weights_hash(embedder)
    except ValueError as error:
        raise ValueError(
            f"The generator {name} makes latents of the embedder {embedder}, which can't be loaded; say "
            f"where it is by --embedder. {error}"
        ) from None
    if not matches_embedder(model, embedder):
        raise ValueError(
            f"The embedder {embedder} has the weights {found}, and the generator {name} makes latents of "
            f"{wanted}; give the embedder that has those by --embedder."
        )
    return load(embedder, device, dtype)


def load_text(
    model: LatentGenerator, name: str, device: torch.device, dtype: torch.dtype, given: str | None = None
) -> TextEncoder | None:
    """The text encoder that a generator was trained with, `given` or by its own name; None without texts.

    Raises ValueError when it is not there or is another one.
    """
    told = model.config.text_encoder
    if told is None:
        return None
    encoder = told["name"] if given is None else given
    try:
        source = find_text_encoder(encoder, told["max_tokens"])
    except ValueError as error:
        raise ValueError(
            f"The generator {name} reads texts through {told['name']}, which can't be loaded; say where it "
            f"is by --text-encoder. {error}"
        ) from None
    if source.fingerprint != told["fingerprint"]:
        raise ValueError(
            f"The text encoder {encoder} has the fingerprint {source.fingerprint}, and the generator {name} "
            f"was trained with {told['fingerprint']}; give that one by --text-encoder."
        )
    return source.load(device, dtype)
