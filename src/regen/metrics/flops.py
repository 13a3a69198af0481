"""The matrix products inside a computation: which they are, and how many operations they take.

Counted, at two operations for a multiplication and an addition: matrix products; convolutions, as the product
of their unfolded input and their weights; and attention, as its two products over all pairs of tokens that
see each other. Softmax, norms and all that is done value by value are not counted: they take time, but make
no figure of speed better.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Kind = Literal["linear", "convolution", "attention"]
aten = torch.ops.aten


@dataclass(frozen=True)
class MatMul:
    """`batch` products of a matrix of `rows` x `inner` with one of `inner` x `columns`."""

    kind: Kind
    dtype: torch.dtype
    batch: int
    rows: int
    inner: int
    columns: int

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.batch * self.rows * self.inner * self.columns


MatMuls = Counter[MatMul]


def count_matmuls(work: Callable[[], object]) -> MatMuls:
    """The products that `work` computes, each with how often.

    In torch's fake mode (`torch._subclasses.FakeTensorMode`) nothing is computed for it. Does not see into
    compiled modules.
    """
    with torch.inference_mode(False), torch.no_grad(), _MatMulCounter() as watch:
        work()
    return watch.matmuls


def total_flops(products: MatMuls) -> int:
    """All operations of the products together."""
    return sum(product.flops * count for product, count in products.items())


class _MatMulCounter(TorchDispatchMode):
    """Sees every operator on its way to the device, below those that are made of others."""

    def __init__(self) -> None:
        super().__init__()
        self.matmuls: MatMuls = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        read = READERS.get(func.overloadpacket)
        if read is not None:
            self.matmuls.update(read(answer, *args))
        return answer


def _matmul(answer: Tensor, a: Tensor, b: Tensor) -> list[MatMul]:
    rows, columns = answer.shape[-2:]
    batch = answer.shape[0] if answer.ndim == 3 else 1
    return [MatMul("linear", a.dtype, batch, rows, a.shape[-1], columns)]


def _convolution(answer: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> list[MatMul]:
    transposed, groups = rest[4], rest[6]
    assert not transposed, "a transposed convolution is another product"
    rows = answer.numel() // answer.shape[1]
    inner, columns = weight[0].numel(), answer.shape[1] // groups
    return [MatMul("convolution", x.dtype, groups, rows, inner, columns)]


def _attention(answer: Any, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> list[MatMul]:
    batch, queries, keys = q.shape[0] * q.shape[1], q.shape[2], k.shape[2]
    scores = MatMul("attention", q.dtype, batch, queries, q.shape[3], keys)
    return [scores, MatMul("attention", v.dtype, batch, queries, keys, v.shape[3])]


READERS: dict[Any, Callable[..., list[MatMul]]] = {
    aten.mm: _matmul,
    aten.bmm: _matmul,
    aten.addmm: lambda answer, bias, a, b: _matmul(answer, a, b),
    aten.baddbmm: lambda answer, bias, a, b: _matmul(answer, a, b),
    aten.convolution: _convolution,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention: _attention,
    aten._scaled_dot_product_efficient_attention: _attention,
    aten._scaled_dot_product_cudnn_attention: _attention,
}
