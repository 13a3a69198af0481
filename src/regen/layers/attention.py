"""Self-attention with normalised queries and keys, over all tokens or within windows of the picture."""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regen.layers.positions import Rotation, rotate

Grid = tuple[int, int, int]  # tokens along t, y, x
Heads = tuple[Tensor, Tensor, Tensor]  # queries, keys and values, each "b h n e"


class Window(NamedTuple):
    """Windows of about `size` x `size` tokens and all frames; the first begins `offset` tokens before the
    picture."""

    size: int
    offset: int


class Run(NamedTuple):
    """`number` windows of `size` tokens side by side."""

    number: int
    size: int


class RMSNorm(nn.RMSNorm):
    """RMSNorm whose gain follows the precision of its input, which keeps the fused kernel under autocast."""

    def __init__(self, width: int):
        super().__init__(width, eps=1e-6)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Self-attention; RMSNorm on q and k (spec A5). Without a rotation tokens have no position in it.

    Without a window all tokens see all tokens. With one, a token sees those of all frames in its own window;
    blocks with different offsets in turn let neighbouring windows see each other.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.norm_q = RMSNorm(width // heads)
        self.norm_k = RMSNorm(width // heads)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        grid: Grid | None = None,
        window: Window | None = None,
        turn: Rotation | None = None,
        keep: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """`grid` tells how the n tokens lie, t slowest; it is needed with a `window` only.

        `turn` gives tokens their positions. Tokens that `keep` leaves out are seen by none.
        """
        qkv = self.qkv(x)
        if window is None:
            return self.out(self._attend(qkv, turn, keep))
        assert grid is not None, "windows need the grid of the tokens"
        assert turn is None and keep is None, "within windows tokens have no positions, and all are seen"
        qkv = rearrange(qkv, "b (t y x) d -> b t y x d", t=grid[0], y=grid[1], x=grid[2])
        columns = runs(grid[2], window)
        rows = []
        for run, row in _cut(qkv, runs(grid[1], window), dim=2):
            parts = [self._attend_windows(part, run, across) for across, part in _cut(row, columns, dim=3)]
            rows.append(torch.cat(parts, dim=3))
        return self.out(rearrange(torch.cat(rows, dim=2), "b t y x d -> b (t y x) d"))

    def _attend_windows(
        self, qkv: Float[Tensor, "b t y x e"], down: Run, across: Run
    ) -> Float[Tensor, "b t y x d"]:
        sizes = {"t": qkv.shape[1], "r": down.number, "c": across.number, "p": down.size, "q": across.size}
        x = self._attend(rearrange(qkv, "b t (r p) (c q) e -> (b r c) (t p q) e", **sizes))
        return rearrange(x, "(b r c) (t p q) d -> b t (r p) (c q) d", **sizes)

    def _attend(
        self,
        qkv: Float[Tensor, "b n e"],
        turn: Rotation | None = None,
        keep: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        return attend(*self._heads(qkv, turn), keep)

    def heads_of(self, x: Float[Tensor, "b n d"], turn: Rotation | None = None) -> Heads:
        """Normalised queries and keys, and values, for an attention over several such groups of tokens."""
        return self._heads(self.qkv(x), turn)

    def _heads(self, qkv: Float[Tensor, "b n e"], turn: Rotation | None) -> Heads:
        q, k, v = rearrange(qkv, "b n (three h e) -> three b h n e", three=3, h=self.heads)
        q, k = self.norm_q(q), self.norm_k(k)
        return (q, k, v) if turn is None else (rotate(q, turn), rotate(k, turn), v)


def attend(
    q: Float[Tensor, "b h n e"],
    k: Float[Tensor, "b h m e"],
    v: Float[Tensor, "b h m e"],
    keep: Bool[Tensor, "b m"] | None = None,
) -> Float[Tensor, "b n d"]:
    """n tokens see those of m that `keep` does not leave out; d holds the heads side by side."""
    mask = None if keep is None else keep[:, None, None]
    return rearrange(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), "b h n e -> b n (h e)")


@torch.no_grad()
def start_nearby(network: nn.Module) -> None:
    """Let the tokens of all attention in a network see those near them most at first.

    Queries and keys begin with the same constant part; turned by their positions, its product falls with the
    distance. Training may change it like any other bias.
    """
    for attention in network.modules():
        if isinstance(attention, Attention):
            width = attention.out.in_features
            pattern = torch.zeros(attention.heads, width // attention.heads)
            pattern[:, : pattern.shape[1] // 2] = 1
            attention.qkv.bias[: 2 * width] = pattern.flatten().repeat(2)


def runs(length: int, window: Window) -> list[Run]:
    """Windows that cover `length` tokens: what an offset leaves of the first, equal ones, and the rest.

    A rest of less than half a window joins the last one, which then has up to 1.5 times the size.
    """
    size, offset = window
    if length <= size:
        return [Run(1, length)]
    first = [Run(1, size - offset)] if offset else []
    length -= sum(run.size for run in first)
    count, rest = length // size, length % size  # divmod does not compile for sizes that change
    if rest == 0 or count == 0:
        return [*first, Run(max(1, count), length // max(1, count))]
    last = Run(1, rest) if 2 * rest >= size else Run(1, size + rest)
    count -= last.size > size
    return [*first, *([Run(count, size)] if count else []), last]


def _cut(x: Tensor, lengths: list[Run], dim: int) -> list[tuple[Run, Tensor]]:
    parts = x.split([run.number * run.size for run in lengths], dim=dim)
    return list(zip(lengths, parts, strict=True))
