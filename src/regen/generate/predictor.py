"""A generator as what predicts latents in the post-training of a decoder (One-DVA; spec B9)."""

import torch
from jaxtyping import Float
from torch import Tensor

from regen.generate.conditions import Condition
from regen.generate.generator import LatentGenerator
from regen.latents import Latents
from regen.losses.post_training import Predictor, denoised
from regen.pretrained.models import encoder_hash, find_model, is_generator, load_as, weights_hash


def load_predictor(name: str, start: str | None, device: torch.device) -> Predictor:
    """What the generator called `name` makes of noised latents, told neither class nor text.

    `start` names the model that is post-trained. Raises ValueError when there is no such generator, or it
    makes the latents of another model.
    """
    folder = find_model(name)
    if not is_generator(folder):
        raise ValueError(f"{name} is no generator; give one that was trained on the latents of this model.")
    model = load_as(LatentGenerator, folder, device, torch.float32)
    if start is None or not matches_embedder(model, start):
        raise ValueError(
            f"The generator {name} makes latents of {model.latent_spec.embedder} (hash {model.latent_spec.weights_hash}), "  # noqa: E501
            "not of the model that is post-trained; start from that one by --init.model."
        )
    return predictor(model)


def matches_embedder(model: LatentGenerator, embedder: str) -> bool:
    """Whether a generator makes the latents of this embedder, or of one that differs in its decoder alone."""
    own = model.latent_spec
    return weights_hash(embedder) == own.weights_hash or encoder_hash(embedder) == own.encoder_hash


def predictor(model: LatentGenerator) -> Predictor:
    """The predictor of a generator of hybrid latents."""

    def velocity(noisy: Latents, t: Float[Tensor, " b"]) -> Latents:
        return model.velocity(noisy, t, unconditional(model, len(t)))

    return denoised(velocity)


def unconditional(model: LatentGenerator, count: int) -> Condition:
    """So many samples of which nothing is known."""
    device = model.device
    if model.config.classes:
        return Condition(label=torch.full((count,), -1, device=device))
    if model.config.text_width:
        text = torch.zeros(count, 1, model.config.text_width, device=device)
        return Condition(text=text, text_mask=torch.zeros(count, 1, dtype=torch.bool, device=device))
    return Condition()
