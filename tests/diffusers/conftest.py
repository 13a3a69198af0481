"""bf16 attention that torch itself refuses is skipped."""

from collections.abc import Generator

import pytest
import torch

# On a processor with AVX-512 whose kernels are limited to less (ATEN_CPU_CAPABILITY).
IS_LIMITED = torch.cpu._is_avx512_supported() and "AVX512" not in torch.backends.cpu.get_cpu_capability()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    try:
        return (yield)
    except RuntimeError as error:
        if IS_LIMITED and "pack_vnni2 is only supported when avx512" in str(error):
            pytest.skip("torch's attention refuses bf16 where its kernels use less than the processor has")
        raise
