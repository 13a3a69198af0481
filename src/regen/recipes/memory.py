"""The memory of passes of a recipe, counted on tensors without content."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from regen.embedders.pyramid import PyramidAutoencoder
from regen.embedders.regen_decoder import RegenDecoder
from regen.losses.auxiliary import AuxiliaryLosses
from regen.metrics.efficientnet import EfficientNetLite0, FeatureDistance
from regen.metrics.lpips import Lpips
from regen.metrics.memory import gpu_norms, peak_bytes
from regen.recipes.updates import AnyRecipe, Update, build, build_without_content
from regen.train.distributed import Trainable
from regen.train.recipe import Recipe
from regen.train.trainer import build_auxiliary_losses

DECODE_WITHOUT_CONTENT = (PyramidAutoencoder, RegenDecoder)


def pass_bytes(recipe: AnyRecipe, update: Update, samples: int, sharded: bool, backward: bool = True) -> int:
    """Peak of one pass of the loss over `samples` samples, besides the model's state.

    Weights are in fp32, of which autocast makes copies in bf16 that count; or, sharded, in bf16 as FSDP2
    gathers them, which count as state.
    """
    auxiliary = auxiliary_of(recipe) if isinstance(recipe, Recipe) else None
    with fake_model(recipe, sharded) as model:
        if auxiliary is not None:
            _drop_content(auxiliary)
        if recipe.loop.activation_checkpointing:
            cast(Trainable, model).enable_gradient_checkpointing()
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(_drop_gradient)
        batch, generators = update.batch(samples), [torch.Generator() for _ in range(samples)]
        arguments = (batch, generators) if auxiliary is None else (batch, generators, auxiliary)

        def run() -> None:
            with autocast(recipe), torch.set_grad_enabled(backward):
                loss, _ = cast(Any, model).loss(*arguments)
            if backward:
                loss.backward()

        return peak_bytes(run)


def codec_bytes(
    recipe: Recipe,
    clips: int,
    frames: int,
    size: tuple[int, int],
    sharded: bool,
    decode: bool,
    is_finished: bool = False,
) -> int:
    """Peak of encoding clips, or of decoding them in one step, besides the weights.

    A finished model computes in the precision of its weights, one in training under autocast.
    """
    with fake_model(recipe, sharded or is_finished, autocasts=not is_finished) as model, torch.no_grad():
        embedder = cast(Any, model.eval())
        clip = torch.zeros(clips, 3, frames, *size, dtype=embedder.dtype if is_finished else torch.float32)
        precision: AbstractContextManager[object] = nullcontext() if is_finished else autocast(recipe)

        def run() -> object:
            with precision:
                if not decode:
                    return embedder.encode(clip).latent_dist
                if isinstance(embedder, DECODE_WITHOUT_CONTENT):
                    return embedder.decode(latents)
            # Decoding reads lengths on the CPU; the loss decodes as much without that.
            batch = {"clip": clip.float(), "target": clip.float()}
            with autocast(recipe):
                return embedder.loss(batch, [torch.Generator() for _ in range(clips)])

        if decode and isinstance(embedder, DECODE_WITHOUT_CONTENT):
            with precision:
                latents = embedder.encode(clip).latent_dist.mode()
        return peak_bytes(run)


@contextmanager
def fake_model(recipe: AnyRecipe, gathered: bool, autocasts: bool = True) -> Iterator[nn.Module]:
    """The model without content, for computations that only have shapes.

    Its weights are in fp32, or `gathered` in the precision of the computation, which `autocasts` or not.
    """
    before = torch.get_default_dtype()
    is_bf16 = gathered and recipe.loop.mixed_precision != "fp32"
    norms: AbstractContextManager[object] = gpu_norms() if autocasts else nullcontext()
    with FakeTensorMode(allow_non_fake_inputs=True), norms:
        torch.set_default_dtype(torch.bfloat16 if is_bf16 else before)
        try:
            model = build(recipe).train()
        finally:
            torch.set_default_dtype(before)
        yield model


def auxiliary_of(recipe: Recipe) -> AuxiliaryLosses | None:
    """Auxiliary losses as they are once the discriminator acts; LPIPS with random weights, without its file.

    The image encoder of REPA is left out where the recipe names none.
    """
    losses, representation = recipe.losses, recipe.losses.representation
    losses = replace(
        losses,
        perceptual_weight=0.0,
        adversarial=replace(losses.adversarial, start=0),
        prediction=replace(losses.prediction, share=0.0),  # as large as without; another model predicts
        representation=representation if representation.model else replace(representation, weight=0.0),
    )
    model = cast(Any, build_without_content(recipe))
    auxiliary = build_auxiliary_losses(replace(recipe, losses=losses), model, torch.device("cpu"), None)
    net = recipe.losses.perceptual_net
    if recipe.losses.perceptual_weight > 0:
        auxiliary = auxiliary or AuxiliaryLosses(losses, torch.device("cpu"))
        auxiliary.config = recipe.losses
        auxiliary.perceptual = (
            FeatureDistance(EfficientNetLite0.load())
            if net == "efficientnet"
            else Lpips.random_for_tests(net)
        )
    return auxiliary


def _drop_content(auxiliary: AuxiliaryLosses) -> None:
    """Replace the weights of the losses' networks by some without content, inside of fake mode."""
    for network in auxiliary.networks():
        for module in network.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    empty = torch.empty(weight.shape, dtype=weight.dtype)
                    module._parameters[name] = nn.Parameter(empty, weight.requires_grad)
    if auxiliary.adversarial is not None:
        auxiliary.adversarial.updates = torch.tensor(0)  # readable, as constants are in fake mode


def autocast(recipe: AnyRecipe) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=recipe.loop.mixed_precision != "fp32")


def count(module: nn.Module, trained: bool = False) -> int:
    """Number of parameters, or of those that are trained."""
    return sum(x.numel() for x in module.parameters() if x.requires_grad or not trained)


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None  # counted as state
