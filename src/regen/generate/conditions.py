"""What a generator is told: a class or a text for each sample, or nothing."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Condition:
    """A batch of conditions, by one of two kinds, or by none at all.

    `label`: numbers of classes, -1 for a sample without one. `text`: states of a text encoder; `keep` tells
    which are there; a sample without any has no text.
    """

    label: Int64[Tensor, " b"] | None = None
    text: Float[Tensor, "b m e"] | None = None
    text_mask: Bool[Tensor, "b m"] | None = None

    @classmethod
    def from_batch(cls, batch: dict[str, Tensor]) -> "Condition":
        """That of a training batch."""
        return cls(batch.get("label"), batch.get("text"), batch.get("text_mask"))

    def unconditional(self) -> "Condition":
        """As many samples without condition, as classifier-free guidance asks for."""
        label = None if self.label is None else torch.full_like(self.label, -1)
        return Condition(
            label, self.text, None if self.text_mask is None else torch.zeros_like(self.text_mask)
        )

    def dropout(self, share: float, generators: list[torch.Generator]) -> "Condition":
        """The same, with each sample losing its condition by chance, decided by its own generator."""
        draws = torch.stack([torch.rand((), generator=each, device=each.device) for each in generators])
        label, keep = self.label, self.text_mask
        if label is not None:
            label = torch.where(draws.to(label.device) < share, -1, label)
        if keep is not None:
            keep = keep & (draws.to(keep.device) >= share)[:, None]
        return replace(self, label=label, text_mask=keep)

    def concat(self, other: "Condition") -> "Condition":
        """A batch of both, this one first; texts are filled up to the longer one."""
        if self.label is not None and other.label is not None:
            return Condition(label=torch.cat([self.label, other.label]))
        if self.text is None or other.text is None or self.text_mask is None or other.text_mask is None:
            return Condition()
        longest = max(self.text.shape[1], other.text.shape[1])
        texts = [F.pad(one, (0, 0, 0, longest - one.shape[1])) for one in (self.text, other.text)]
        keeps = [F.pad(one, (0, longest - one.shape[1])) for one in (self.text_mask, other.text_mask)]
        return Condition(text=torch.cat(texts), text_mask=torch.cat(keeps))

    def to(self, device: torch.device) -> "Condition":
        values = (None if one is None else one.to(device) for one in (self.label, self.text, self.text_mask))
        return Condition(*values)


class ConditionEmbedding(nn.Module):
    """A condition as one vector, which modulates all blocks, and as tokens, which take part in attention.

    A text's vector is made of the mean of its states; where there is no text it is a learned one, and none
    of its tokens can be seen.
    """

    def __init__(self, width: int, num_classes: int, text_width: int | None):
        super().__init__()
        self.num_classes = num_classes
        self.label = nn.Embedding(num_classes + 1, width) if num_classes else None
        if self.label is not None:
            nn.init.normal_(self.label.weight)  # much below 1, the noise level drowns it and it is not learnt
        self.text_norm = nn.LayerNorm(text_width) if text_width else None
        if text_width:
            self.text_in = nn.Linear(text_width, width)
            self.text_pool = nn.Sequential(nn.Linear(text_width, width), nn.SiLU(), nn.Linear(width, width))
            self.null_text = nn.Parameter(torch.zeros(width))

    def forward(
        self, condition: Condition
    ) -> tuple[Float[Tensor, "b d"] | None, Float[Tensor, "b m d"] | None, Bool[Tensor, "b m"] | None]:
        """The vector, and the tokens of the text with which of them are there; None without condition."""
        if self.label is not None:
            assert condition.label is not None, "the generator knows classes"
            label = torch.where(condition.label < 0, self.num_classes, condition.label)
            return self.label(label), None, None
        if self.text_norm is None:
            return None, None, None
        assert condition.text is not None and condition.text_mask is not None, "the generator knows texts"
        keep = condition.text_mask
        states = self.text_norm(condition.text.to(self.text_norm.weight.dtype))
        total = (states * keep[..., None]).sum(1) / keep.sum(1, keepdim=True).clamp_min(1)
        pooled = torch.where(keep.any(1, keepdim=True), self.text_pool(total), self.null_text)
        return pooled, self.text_in(states), keep
