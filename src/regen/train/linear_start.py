"""Linear maps that a training starts from, fitted to its clips: principal components, and least squares."""

from collections.abc import Iterable

import torch
from torch import Tensor

from regen.embedders.linear import Covariance
from regen.embedders.one_dva import AutoencoderOneDVA
from regen.embedders.regen_decoder import RegenDecoder
from regen.networks.linear import LeastSquares


@torch.no_grad()
def init_from_pca(model: AutoencoderOneDVA, batches: Iterable[dict[str, Tensor]], count: int) -> None:
    """Initialise `model` as the best linear embedder of its patches, by its structural latents.

    The principal components are those of the patches of at least `count` clips, from batches with a `clip`
    (b 3 t h w in [-1, 1]). The transformers' structural outputs are zeroed. Raises ValueError when the model
    has no linear skip maps.
    """
    encoder, decoder, channels = model.encoder, model.decoder, model.latent_channels
    if encoder.linear_skip is None or decoder.linear_skip is None:
        raise ValueError(
            "init.pca_clips needs linear maps: add --model.linear-skip, or drop --init.pca-clips."
        )
    covariance, seen = Covariance(encoder.linear_skip.in_features), 0
    for batch in batches:
        covariance.add(model.patches.patchify(model.patches.pad(batch["clip"])))
        seen += len(batch["clip"])
        if seen >= count:
            break
    device, dtype = encoder.linear_skip.weight.device, encoder.linear_skip.weight.dtype
    mean, basis, std = (part.to(device, dtype) for part in covariance.components(channels).values())
    encoder.linear_skip.weight.copy_((basis / std).T)
    encoder.linear_skip.bias.copy_(-(mean @ basis) / std)
    decoder.linear_skip.weight.copy_(basis * std)
    decoder.linear_skip.bias.copy_(mean)
    encoder.structural.project.weight[:channels] = 0
    encoder.structural.project.bias[:channels] = 0


@torch.no_grad()
def fit_linear_path(model: RegenDecoder, batches: Iterable[dict[str, Tensor]], count: int) -> None:
    """Fit the linear path of a decoder to at least `count` clips, from batches that decode what they encode.

    Raises ValueError when the model has none.
    """
    image, group = model.linear_image, model.linear_group
    if image is None or group is None:
        raise ValueError("init.linear_clips needs a linear path: add --model.linear-path.")
    fits = [LeastSquares(9 * part.conv.in_channels + 1, part.conv.out_channels) for part in (image, group)]
    seen = 0
    for batch in batches:
        clip = batch["target"]
        latents = batch["latents"] if "latents" in batch else model.encoder.encode(clip)
        for g in range(latents.shape[2]):
            groups = torch.full((len(clip), 1), g, device=clip.device) if g else None
            inputs, frames = model.group(latents, clip, groups)
            part, fit = (group, fits[1]) if g else (image, fits[0])
            fit.add(part.features(inputs[:, :, 0].float()), part.targets(frames.float()))
        seen += len(clip)
        if seen >= count:
            break
    for part, fit in zip((image, group), fits, strict=True):
        part.load(fit.solve())
