"""What every test shares. Nothing here may import regen: the shape checks hook in after this file is read."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("regen", max_examples=15, deadline=None, derandomize=True)
settings.load_profile("regen")
torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Each test starts from the same global random state, whichever tests ran before it."""
    torch.manual_seed(0)
