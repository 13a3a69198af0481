"""Self-attention with normalised queries and keys, full or in windows."""

from typing import Any, NamedTuple

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regen.layers.positions import Rope, apply_rope

Grid = tuple[int, int, int]  # tokens along t, y, x
QKV = tuple[Tensor, Tensor, Tensor]  # queries, keys and values, each "b h n e"
SCORES = (
    1 << 20
)  # of queries and keys that `ProductAttention` computes at once, so that they stay in the cache


class Window(NamedTuple):
    """Windows of about `size` x `size` tokens and all frames; the first starts `offset` tokens outside."""

    size: int
    offset: int


class WindowSpan(NamedTuple):
    """`number` adjacent windows of `size` tokens along one axis."""

    number: int
    size: int


class RMSNorm(nn.RMSNorm):
    """RMSNorm whose gain is cast to the dtype of its input, which keeps the fused kernel under autocast.

    PyTorch has no such kernel for CPUs and makes it of seven operations; four are enough for inference. In
    bf16 there the norm is rounded to bf16 as well, in place of a copy in fp32.
    """

    def __init__(self, width: int):
        super().__init__(width, eps=1e-6)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        weight = self.weight.to(x.dtype)
        if x.device.type != "cpu" or torch.is_grad_enabled():
            return F.rms_norm(x, self.normalized_shape, weight, self.eps)
        precise = torch.promote_types(x.dtype, torch.float32)
        y = x if x.dtype == torch.bfloat16 else x.to(precise)
        mean_square = torch.linalg.vector_norm(y, dim=-1, keepdim=True).to(precise).square() / y.shape[-1]
        return (y * torch.rsqrt(mean_square + self.eps).to(y.dtype)).to(x.dtype) * weight


class AttentionProcessor:
    """Scaled dot-product attention in the backend that diffusers' `set_attention_backend` selects."""

    _attention_backend: AttentionBackendName | None = None
    _parallel_config = None

    def __call__(
        self,
        q: Float[Tensor, "b h n e"],
        k: Float[Tensor, "b h m e"],
        v: Float[Tensor, "b h m e"],
        mask: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Attention of n queries over the m keys that `mask` admits; d = h e, the heads concatenated."""
        if mask is None and self._attention_backend is None and _learns_in_bf16_on_cpu(q):
            return rearrange(ProductAttention.apply(q, k, v), "b h n e -> b n (h e)")
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # diffusers' order: b n h e
        mask = None if mask is None else mask[:, None, None]
        x = dispatch_attention_fn(q, k, v, mask, backend=self._attention_backend)
        return rearrange(x, "b n h e -> b n (h e)")


class ProductAttention(torch.autograd.Function):
    """Attention whose gradients are plain matrix products, for training in bf16 on a CPU.

    The fused kernel of PyTorch (2.13) is the faster one forward, but its gradients take 4.5 times as long as
    these for 80 tokens, 1.6 times for 500 (AMX). They are as exact as bf16 is.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        return F.scaled_dot_product_attention(q, k, v)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        inputs = ctx.saved_tensors  # with checkpointed activations they can be taken only once
        values = [x.flatten(0, 1) for x in (*inputs, *gradients)]
        _, n, e = values[0].shape
        heads = max(1, SCORES // n**2)
        results = [torch.empty_like(x) for x in values[:3]]
        for q, k, v, g, dq, dk, dv in zip(*(x.split(heads) for x in (*values, *results)), strict=True):
            q = q * e**-0.5
            weights = torch.bmm(q, k.transpose(1, 2)).softmax(-1)
            torch.bmm(weights.transpose(1, 2), g, out=dv)
            scores = torch.ops.aten._softmax_backward_data(
                torch.bmm(g, v.transpose(1, 2)), weights, -1, g.dtype
            )
            torch.bmm(scores, k, out=dq).mul_(e**-0.5)
            torch.bmm(scores.transpose(1, 2), q, out=dk)
        return tuple(map(torch.Tensor.view_as, results, inputs))


def _learns_in_bf16_on_cpu(q: Tensor) -> bool:
    is_bf16 = q.device.type == "cpu" and q.dtype == torch.bfloat16
    return is_bf16 and q.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()


class Attention(nn.Module, AttentionModuleMixin):
    """Self-attention with RMSNorm on queries and keys and optional rotary positions (docs/method.md, 5).

    Without a window every token attends to every token. With one, a token attends to the tokens of all frames
    inside its own window; alternating offsets between blocks connect neighbouring windows.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.processor = AttentionProcessor()
        self.qkv = nn.Linear(width, 3 * width)
        self.norm_q = RMSNorm(width // heads)
        self.norm_k = RMSNorm(width // heads)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        grid: Grid | None = None,
        window: Window | None = None,
        rope: Rope | None = None,
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """`grid` (t, y, x) gives the layout of the n tokens, t slowest; required with a `window`.

        `rope`: rotary positions. `mask`: True for tokens that may be attended to. Neither works with windows.
        """
        if window is None:
            return self.out(self.processor(*self.project_qkv(x, rope), mask))
        assert grid is not None, "a window requires the grid of the tokens"
        assert rope is None and mask is None, "windows support neither rotary positions nor a mask"
        qkv = rearrange(self.qkv(x), "b (t y x) d -> b t y x d", t=grid[0], y=grid[1], x=grid[2])
        columns = window_spans(grid[2], window)
        rows = []
        for down, row in _split(qkv, window_spans(grid[1], window), dim=2):
            parts = [self._windows(part, down, across) for across, part in _split(row, columns, dim=3)]
            rows.append(torch.cat(parts, dim=3))
        return self.out(rearrange(torch.cat(rows, dim=2), "b t y x d -> b (t y x) d"))

    def project_qkv(self, x: Float[Tensor, "b n d"], rope: Rope | None = None) -> QKV:
        """Normalised (and rotated) queries and keys, and values, each "b h n e"."""
        return self._heads(self.qkv(x), rope)

    def _windows(
        self, qkv: Float[Tensor, "b t y x e"], down: WindowSpan, across: WindowSpan
    ) -> Float[Tensor, "b t y x d"]:
        """Attention inside each of `down.number` x `across.number` windows of equal size."""
        sizes = {"t": qkv.shape[1], "r": down.number, "c": across.number, "p": down.size, "q": across.size}
        windows = rearrange(qkv, "b t (r p) (c q) e -> (b r c) (t p q) e", **sizes)
        x = self.processor(*self._heads(windows, None))
        return rearrange(x, "(b r c) (t p q) d -> b t (r p) (c q) d", **sizes)

    def _heads(self, qkv: Float[Tensor, "b n e"], rope: Rope | None) -> QKV:
        q, k, v = rearrange(qkv, "b n (three h e) -> three b h n e", three=3, h=self.heads)
        q, k = self.norm_q(q), self.norm_k(k)
        return (q, k, v) if rope is None else (apply_rope(q, rope), apply_rope(k, rope), v)


@torch.no_grad()
def init_local_attention(network: nn.Module) -> None:
    """Initialise every attention layer of a network with rotary positions to favour nearby tokens.

    The biases of queries and keys start with the same constant pattern; after rotation, its dot product
    decays with the distance. They are trained like any other bias.
    """
    for attention in network.modules():
        if isinstance(attention, Attention):
            width = attention.out.in_features
            pattern = torch.zeros(attention.heads, width // attention.heads)
            pattern[:, : pattern.shape[1] // 2] = 1
            attention.qkv.bias[: 2 * width] = pattern.flatten().repeat(2)


def window_spans(length: int, window: Window) -> list[WindowSpan]:
    """Windows that cover `length` tokens: the part of the first one left by the offset, equal ones, the rest.

    A rest of less than half a window is merged into the last one, which then has up to 1.5 times the size.
    """
    size, offset = window
    if length <= size:
        return [WindowSpan(1, length)]
    first = [WindowSpan(1, size - offset)] if offset else []
    length -= sum(span.size for span in first)
    count, rest = length // size, length % size  # divmod does not compile with dynamic sizes
    if rest == 0 or count == 0:
        return [*first, WindowSpan(max(1, count), length // max(1, count))]
    last = WindowSpan(1, rest) if 2 * rest >= size else WindowSpan(1, size + rest)
    count -= last.size > size
    return [*first, *([WindowSpan(count, size)] if count else []), last]


def _split(x: Tensor, spans: list[WindowSpan], dim: int) -> list[tuple[WindowSpan, Tensor]]:
    parts = x.split([span.number * span.size for span in spans], dim=dim)
    return list(zip(spans, parts, strict=True))
