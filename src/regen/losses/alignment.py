"""Self-alignment: 1D latents stay near the structural latents that they are like (One-DVA; spec B5.4)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def self_alignment(
    sequence: Float[Tensor, "b c s"],
    structural: Float[Tensor, "b c n"],
    keep: Bool[Tensor, "b s"],
    margin: float = 0.5,
) -> Float[Tensor, ""]:
    """L_m + L_c: pull each 1D latent to its most similar structural latent, and to its neighbours.

    L_m = mean relu(1 - δ - cos(u_i, s_j*)), j* the structural latent of the largest cosine, which gets no
    gradient: the structure is the anchor. L_c = mean relu(1 - δ - cos(u_i, u_i+1)). What is within the
    margin δ costs nothing: without one the best would be to copy the structure and tell nothing else. 1D
    latents that `keep` leaves out do not count; with none or one left the terms that need more are 0. Means
    are over the latents of a clip, then over clips, so that a batch may be split in any way. Where a clip has
    several regions they stand one after the other, in both.
    """
    u = F.normalize(sequence.float(), dim=1, eps=1e-6)
    anchor = F.normalize(structural.detach().float(), dim=1, eps=1e-6)
    nearest = torch.einsum("bcs,bcn->bsn", u, anchor).amax(2)
    matching = _mean(F.relu(1 - margin - nearest), keep)
    beside = (u[:, :, 1:] * u[:, :, :-1]).sum(1)
    return matching + _mean(F.relu(1 - margin - beside), keep[:, 1:] & keep[:, :-1])


@torch.no_grad()
def effective_rank(sequence: Float[Tensor, "b c s"], keep: Bool[Tensor, "b s"]) -> Float[Tensor, ""]:
    """In how many directions 1D latents spread: the participation ratio (Σ λ)² / Σ λ² of their variances λ.

    From 1 (all on one line, as when alignment has made them collapse) to c; 0 where none is kept. It needs no
    eigenvalues, hence no wait for the device.
    """
    weight = keep[:, None].float()
    count = weight.sum().clamp(min=1)
    centred = (sequence.float() - (sequence.float() * weight).sum((0, 2), keepdim=True) / count) * weight
    covariance = torch.einsum("bcs,bds->cd", centred, centred) / count
    total = covariance.diagonal().sum()
    shares = covariance / total.clamp(min=1e-30)
    return torch.where(total > 0, 1 / shares.square().sum().clamp(min=1e-12), 0.0)


def _mean(values: Float[Tensor, "b s"], keep: Bool[Tensor, "b s"]) -> Float[Tensor, ""]:
    """Over those of a clip that are kept, 0 where there is none; then over clips."""
    return ((values * keep).sum(1) / keep.sum(1).clamp(min=1)).mean()
