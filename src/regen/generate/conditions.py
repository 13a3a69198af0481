"""Conditions of a generator: classes or texts."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Condition:
    """A batch of conditions: classes, texts, or nothing.

    `label`: class indices, -1 for none. `text`: hidden states of a text encoder, where `text_mask` is True; a
    sample whose mask is False everywhere has no text.
    """

    label: Int64[Tensor, " b"] | None = None
    text: Float[Tensor, "b m e"] | None = None
    text_mask: Bool[Tensor, "b m"] | None = None

    @classmethod
    def from_batch(cls, batch: dict[str, Tensor]) -> "Condition":
        """The condition of a training batch."""
        return cls(batch.get("label"), batch.get("text"), batch.get("text_mask"))

    def unconditional(self) -> "Condition":
        """As many empty conditions, for classifier-free guidance."""
        label = None if self.label is None else torch.full_like(self.label, -1)
        mask = None if self.text_mask is None else torch.zeros_like(self.text_mask)
        return Condition(label, self.text, mask)

    def dropout(self, prob: float, generators: list[torch.Generator]) -> "Condition":
        """Drop each sample's condition with probability `prob`, drawn from its own generator."""
        draws = torch.stack([torch.rand((), generator=g, device=g.device) for g in generators])
        label, mask = self.label, self.text_mask
        if label is not None:
            label = torch.where(draws.to(label.device) < prob, -1, label)
        if mask is not None:
            mask = mask & (draws.to(mask.device) >= prob)[:, None]
        return replace(self, label=label, text_mask=mask)

    def concat(self, other: "Condition") -> "Condition":
        """One batch of both, this one first; texts are padded to the longer one."""
        if self.label is not None and other.label is not None:
            return Condition(label=torch.cat([self.label, other.label]))
        if self.text is None or other.text is None or self.text_mask is None or other.text_mask is None:
            return Condition()
        longest = max(self.text.shape[1], other.text.shape[1])
        texts = [F.pad(text, (0, 0, 0, longest - text.shape[1])) for text in (self.text, other.text)]
        masks = [F.pad(mask, (0, longest - mask.shape[1])) for mask in (self.text_mask, other.text_mask)]
        return Condition(text=torch.cat(texts), text_mask=torch.cat(masks))

    def to(self, device: torch.device) -> "Condition":
        values = (self.label, self.text, self.text_mask)
        return Condition(*(None if value is None else value.to(device) for value in values))


class ConditionEmbedding(nn.Module):
    """A condition as a vector that modulates all blocks, and as tokens that take part in attention.

    The vector of a text is a projection of its mean hidden state; without a text it is learned, and all
    tokens are masked.
    """

    def __init__(self, width: int, num_classes: int, text_width: int | None):
        super().__init__()
        self.num_classes = num_classes
        self.label = nn.Embedding(num_classes + 1, width) if num_classes else None
        if self.label is not None:
            nn.init.normal_(
                self.label.weight
            )  # much below 1, the noise level drowns it and it is not learned
        self.text_norm = nn.LayerNorm(text_width) if text_width else None
        if text_width:
            self.text_in = nn.Linear(text_width, width)
            self.text_pool = nn.Sequential(nn.Linear(text_width, width), nn.SiLU(), nn.Linear(width, width))
            self.null_text = nn.Parameter(torch.zeros(width))

    def forward(
        self, condition: Condition
    ) -> tuple[Float[Tensor, "b d"] | None, Float[Tensor, "b m d"] | None, Bool[Tensor, "b m"] | None]:
        """The vector, the text tokens and their mask; None for what the generator doesn't have."""
        if self.label is not None:
            assert condition.label is not None, "the generator has classes"
            label = torch.where(condition.label < 0, self.num_classes, condition.label)
            return self.label(label), None, None
        if self.text_norm is None:
            return None, None, None
        assert condition.text is not None and condition.text_mask is not None, "the generator reads texts"
        mask = condition.text_mask
        states = self.text_norm(condition.text.to(self.text_norm.weight.dtype))
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
        pooled = torch.where(mask.any(1, keepdim=True), self.text_pool(mean), self.null_text)
        return pooled, self.text_in(states), mask
