"""Tests that not every processor, or every setting of one, can run."""

import pytest
import torch

from regen.layers.convolution import HAS_AMX

ATTENTION_IN_BF16 = pytest.mark.skipif(
    HAS_AMX and torch.backends.cpu.get_cpu_capability() != "AVX512",
    reason="PyTorch's kernel fails where the environment forbids it AVX-512 on a CPU with AMX",
)
