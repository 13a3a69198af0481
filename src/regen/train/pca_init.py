"""Begin as the best linear embedder: principal components in the linear maps beside the transformers."""

from collections.abc import Iterable

import torch
from torch import Tensor

from regen.embedders.linear import Covariance
from regen.embedders.one_dva import AutoencoderOneDVA


@torch.no_grad()
def init_from_pca(model: AutoencoderOneDVA, batches: Iterable[dict[str, Tensor]], count: int) -> None:
    """Let `model` begin as the best linear embedder of its patches with its structural latents.

    The components are those of the patches of `count` clips or a few more, from batches with a `clip`
    "b 3 t h w" in [-1, 1]. The transformers say nothing of the structural latents at first. Raises ValueError
    when the model has no linear maps.
    """
    encoder, decoder, channels = model.encoder, model.decoder, model.latent_channels
    if encoder.shortcut is None or decoder.shortcut is None:
        raise ValueError(
            "Only a model with linear maps can start at components; add --model.linear-skip, or leave "
            "--init.pca-clips away."
        )
    covariance, seen = Covariance(encoder.shortcut.in_features), 0
    for batch in batches:
        covariance.add(model.patches.cut(model.patches.pad(batch["clip"])))
        seen += len(batch["clip"])
        if seen >= count:
            break
    found = covariance.components(channels)
    device, dtype = encoder.shortcut.weight.device, encoder.shortcut.weight.dtype
    mean, basis, std = (part.to(device, dtype) for part in (found.mean, found.basis, found.std))
    encoder.shortcut.weight.copy_((basis / std).T)
    encoder.shortcut.bias.copy_(-(mean @ basis) / std)
    decoder.shortcut.weight.copy_(basis * std)
    decoder.shortcut.bias.copy_(mean)
    encoder.structural.project.weight[:channels] = 0
    encoder.structural.project.bias[:channels] = 0
