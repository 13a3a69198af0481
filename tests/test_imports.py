"""What is not imported: packages that take seconds and that a model, a recipe or a command does without."""

import subprocess
import sys

from regen.embedders.lora import LoraAdapters

# With the extras all of these can be imported; peft brings the models of transformers.
SLOW = (
    *("diffusers.hooks", "diffusers.models.autoencoders", "diffusers.models.transformers"),
    *("diffusers.pipelines", "peft", "transformers.modeling_utils"),
    *("torchmetrics", "scipy", "matplotlib", "pandas", "ray", "gradio", "regen.generate.pipeline"),
)
UP_TO_THE_FIRST_FRAME = f"""
import sys
import torch
import regen.codec.transcode, regen.recipes
from regen.pretrained.models import load
model = load("regen-small-4x", torch.device("cpu"), torch.float32)
model.encode(torch.zeros(1, 3, 1, 16, 16))
print(sorted(name for name in {SLOW} if name in sys.modules))
"""


def test_models_and_recipes_load_nothing_that_they_do_without():
    command = [sys.executable, "-c", UP_TO_THE_FIRST_FRAME]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_lora_has_all_that_diffusers_has():
    from diffusers.loaders import PeftAdapterMixin

    names = {name for name in vars(PeftAdapterMixin) if not name.startswith("__")}
    assert names == {name for name in vars(LoraAdapters) if not name.startswith("__")}
    assert LoraAdapters.add_adapter is PeftAdapterMixin.add_adapter
    for name, value in vars(PeftAdapterMixin).items():
        if name in names and not callable(value) and not isinstance(value, classmethod):
            assert getattr(LoraAdapters, name) == value
