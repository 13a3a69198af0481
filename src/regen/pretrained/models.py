"""Models by name: loading them, and hashes of their weights; `listing` finds and describes them."""

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch
from diffusers import ModelMixin
from diffusers.utils import logging
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from regen.embedders.diffusers_adapter import DEFAULT_WINDOW, DiffusersAdapter
from regen.embedders.diffusers_models import find
from regen.embedders.diffusers_models import load as load_autoencoder
from regen.embedders.frozen_encoder import encoder_hash as network_hash
from regen.embedders.frozen_encoder import place_of
from regen.embedders.linear import AutoencoderLinear
from regen.embedders.magvit2 import AutoencoderMagvit2
from regen.embedders.model import STATISTICS
from regen.embedders.one_dva import AutoencoderOneDVA
from regen.embedders.regen import AutoencoderRegen
from regen.embedders.regen_decoder import RegenDecoder
from regen.io import read_json
from regen.names import CONFIG, LOADING_ERRORS, damaged
from regen.pretrained.listing import (
    GENERATOR,
    class_name_of,
    find_model,
    is_generator,
    shapes_of,
    stored_config,
)
from regen.runtime import tune_malloc

Autoencoder = AutoencoderRegen | AutoencoderMagvit2 | AutoencoderOneDVA | AutoencoderLinear | RegenDecoder
CLASSES: dict[str, type[Autoencoder]] = {embedder.__name__: embedder for embedder in get_args(Autoencoder)}
M = TypeVar("M", bound=ModelMixin)


def load(name: str, device: torch.device, dtype: torch.dtype) -> Autoencoder:
    """The embedder `name` (or of the pipeline `name`) in evaluation mode.

    Raises ValueError when it is missing, damaged or a generator.
    """
    folder = find_model(name)
    if is_generator(folder):
        raise ValueError(f"{name} is a generator, not an embedder; use it with regen generate --model.")
    return load_as(CLASSES[class_name_of(folder)], folder, device, dtype)


def load_embedder(
    name: str, device: torch.device, dtype: torch.dtype, window: int = DEFAULT_WINDOW
) -> Autoencoder | DiffusersAdapter:
    """An embedder of this package or of diffusers in evaluation mode (see `embedders.diffusers_models`).

    `window`: frames that a model of diffusers gets at once, at most. Raises ValueError when the model does
    not exist, can't be downloaded, is damaged, or has an unsupported class.
    """
    name = place_of(name)
    location = find(name)
    if location is None or location.class_name is None or location.class_name in (*CLASSES, GENERATOR):
        return load(name, device, dtype)
    return load_autoencoder(location, device, dtype, window)


def load_as(model_class: type[M], folder: Path, device: torch.device, dtype: torch.dtype) -> M:
    """The model in `folder`, which must be of this class. Raises ValueError when it is damaged."""
    try:
        with _no_larger_than(folder):
            model, loading = model_class.from_pretrained(
                folder, torch_dtype=dtype, use_safetensors=True, output_loading_info=True
            )
    except LOADING_ERRORS as error:
        raise damaged(folder, error) from None
    wrong = [*loading["missing_keys"], *loading["unexpected_keys"], *loading["mismatched_keys"]]
    if wrong:
        raise damaged(folder, f"{len(wrong)} weights do not match its config, such as {wrong[0]}")
    if not all(_are_statistics(model.config.get(name), model) for name in STATISTICS):
        raise damaged(folder, f"{' and '.join(STATISTICS)} must be two rows of latent_channels numbers")
    # The method `to` of diffusers first loads its hooks, which takes a second or two; a new model has none.
    nn.Module.to(model, device)
    return model.eval()


@contextmanager
def _no_larger_than(folder: Path) -> Iterator[None]:
    """Raise ValueError as soon as this thread constructs more parameters than the weights in `folder` have.

    So no config.json makes a model that takes memory or time which its weights do not justify.
    """
    shapes = [shape for path in folder.glob("*.safetensors") for shape in shapes_of(path).values()]
    tensors, values = len(shapes), sum(map(prod, shapes))
    thread = threading.get_ident()

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal tensors, values
        if parameter is None or threading.get_ident() != thread:
            return
        tensors, values = tensors - 1, values - parameter.numel()
        if tensors < 0 or values < 0:
            raise ValueError("its config.json describes a larger model than its weights are of")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _are_statistics(rows: Any, model: ModelMixin) -> bool:
    """Whether this is a finite number for each channel, of the first latent frame and of the others."""
    try:
        values = torch.tensor([] if rows is None else rows, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        return False
    return rows is None or (
        values.shape == (2, model.config.latent_channels) and bool(values.isfinite().all())
    )


def silence_logging() -> None:
    """Show only a command's own output on the terminal, and keep freed memory from model to model."""
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    tune_malloc()


def weights_hash(name: str) -> str:
    """16 hexadecimal digits over names, types, shapes and bytes of the weights as stored in the files.

    Of an autoencoder of diffusers: over those of its encoder.
    """
    location = find(place_of(name))
    if location is not None and location.class_name not in (None, *CLASSES, GENERATOR):
        adapter = load_autoencoder(location, torch.device("cpu"), torch.float32)
        return network_hash(adapter.networks[0])
    return _hash(stored_weights(find_model(name)))


def decodes_latents_of(name: str, weights: str) -> bool:
    """Whether `name` is a decoder for the latents of the autoencoder of which this is the `weights_hash`.

    Those of an encoder of this package are known while it is found by the name in the decoder's config.
    """
    config = read_json(find_model(name) / CONFIG)
    if config.get("_class_name") != RegenDecoder.__name__:
        return False
    if str(config.get("encoder_class")) not in CLASSES:
        return config.get("encoder_hash") == weights
    encoder = str(config.get("encoder"))
    try:
        is_known = network_hash(load(encoder, torch.device("cpu"), torch.float32)) == config["encoder_hash"]
        return is_known and weights_hash(encoder) == weights
    except (KeyError, ValueError):
        return False


def encoder_hash(name: str) -> str:
    """The same of the encoder alone and of its latent statistics.

    Models that differ in their decoders, such as one before and after post-training, have the same latents.
    Only values count, not their type: training stores fp32 and may start from weights stored in bf16.
    """
    folder = find_model(name)
    stored = stored_weights(folder)
    weights = ((tensor, values.float()) for tensor, values in stored if tensor.startswith("encoder."))
    config = stored_config(folder)
    return _hash(weights, json.dumps([config.get("latents_mean"), config.get("latents_std")]))


def _hash(weights: Iterable[tuple[str, Tensor]], salt: str = "") -> str:
    digest = hashlib.blake2b(salt.encode(), digest_size=8)
    for tensor, values in weights:
        digest.update(f"{tensor} {values.dtype} {list(values.shape)}\n".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def stored_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and values of each tensor, one at a time, sorted by name. Raises ValueError when damaged."""
    files = {tensor: path for path in folder.glob("*.safetensors") for tensor in shapes_of(path)}
    for tensor, path in sorted(files.items()):
        with safe_open(path, framework="pt") as file:
            yield tensor, file.get_tensor(tensor)
