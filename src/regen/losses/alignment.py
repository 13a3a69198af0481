"""Self-alignment of 1D latents with structural latents, and its diagnostic."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def self_alignment(
    sequence: Float[Tensor, "b c s"],
    structural: Float[Tensor, "b c n"],
    mask: Bool[Tensor, "b s"],
    margin: float = 0.5,
) -> Float[Tensor, ""]:
    """L_m + L_c: align 1D latents with structural latents and their neighbours (docs/method.md, 18).

    L_m = mean relu(1 - δ - cos(u_i, s_j*)) with j* the structural latent of the largest cosine, without
    gradient: the structure is the anchor. L_c = mean relu(1 - δ - cos(u_i, u_i+1)). Without the margin δ the
    optimum would be a copy of the structure. Means are over the 1D latents of a clip inside `mask` (0 if
    there are none), then over clips. The regions of a clip are concatenated, in both inputs.
    """
    u = F.normalize(sequence.float(), dim=1, eps=1e-6)
    anchor = F.normalize(structural.detach().float(), dim=1, eps=1e-6)
    nearest = torch.einsum("bcs,bcn->bsn", u, anchor).amax(2)
    matching = _masked_mean(F.relu(1 - margin - nearest), mask)
    neighbours = (u[:, :, 1:] * u[:, :, :-1]).sum(1)
    return matching + _masked_mean(F.relu(1 - margin - neighbours), mask[:, 1:] & mask[:, :-1])


@torch.no_grad()
def effective_rank(sequence: Float[Tensor, "b c s"], mask: Bool[Tensor, "b s"]) -> Float[Tensor, ""]:
    """Participation ratio (Σ λ)² / Σ λ² of the variances λ of 1D latents: 1 (collapsed) to c; 0 for none.

    Computed without eigenvalues, hence without synchronising the device.
    """
    weight = mask[:, None].float()
    count = weight.sum().clamp(min=1)
    centred = (sequence.float() - (sequence.float() * weight).sum((0, 2), keepdim=True) / count) * weight
    covariance = torch.einsum("bcs,bds->cd", centred, centred) / count
    total = covariance.diagonal().sum()
    shares = covariance / total.clamp(min=1e-30)
    return torch.where(total > 0, 1 / shares.square().sum().clamp(min=1e-12), 0.0)


def _masked_mean(values: Float[Tensor, "b s"], mask: Bool[Tensor, "b s"]) -> Float[Tensor, ""]:
    """Mean over each clip's values inside the mask (0 if there are none), then over clips."""
    return ((values * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()
