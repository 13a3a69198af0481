"""Model: a model of diffusers, configured by a dataclass, the only place where its options are written."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import wraps
from typing import Any, TypeVar

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.utils import BaseOutput
from torch import Tensor

from regen.embedders.lora import LoraAdapters
from regen.io import check_types
from regen.names import NamedModel
from regen.runtime import execution_device

C = TypeVar("C")
STATISTICS = {"latents_mean": None, "latents_std": None}  # of embedders, and their defaults
MEASURED = {**STATISTICS, "latent_rgb_factors": None}


@dataclass
class DecoderOutput(BaseOutput):
    """Decoded frames "b 3 t h w", about [-1, 1]; the class of this name in diffusers is slow to import."""

    sample: Tensor


def configured_by(
    config_class: type[C], others: Mapping[str, Any] = MEASURED, **constants: Any
) -> Callable[[Callable[[Any, C], None]], Callable[..., None]]:
    """Construct a model from a dataclass, the only place where its options are written.

    The fields of `config_class`, `others` with their defaults, and `constants` become the arguments of
    `__init__` and the entries of config.json, as diffusers expects. Dataclasses in fields are objects in
    config.json. The decorated `__init__` takes the dataclass. Raises ValueError when a constant has another
    value.
    """
    shared = {**others, **constants}
    own = vars(config_class())
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    arguments = [inspect.Parameter(name, kind, default=value) for name, value in (own | shared).items()]
    signature = inspect.Signature([inspect.Parameter("self", kind), *arguments])

    def decorate(init: Callable[[Any, C], None]) -> Callable[..., None]:
        @wraps(init)
        def construct(self: ConfigMixin, *args: Any, **options: Any) -> None:
            bound = signature.bind(self, *args, **options)
            bound.apply_defaults()
            values = bound.arguments
            for name, value in constants.items():
                if values[name] != value:
                    raise ValueError(f"{name} must be {value}, got {values[name]}.")
            config = _from_json(config_class, {name: values[name] for name in own})
            self.register_to_config(**asdict(config), **{name: values[name] for name in shared})
            init(self, config)

        construct.__signature__ = signature  # type: ignore[attr-defined]
        return construct

    return decorate


def _from_json(config_class: type[C], values: Mapping[str, Any]) -> Any:
    """A dataclass from JSON, which has lists for tuples and objects for dataclasses."""
    types = {field.name: field.type for field in fields(config_class)}  # type: ignore[arg-type]
    converted: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and is_dataclass(types[name]):
            value = _from_json(types[name], value)  # type: ignore[arg-type]
        converted[name] = tuple(value) if isinstance(value, list) else value
    config = config_class(**converted)
    check_types(config)
    return config


def check_requirements(requirements: Mapping[str, bool]) -> None:
    """Raises ValueError with the first requirement on a configuration that does not hold."""
    for requirement, holds in requirements.items():
        if not holds:
            raise ValueError(f"The model's configuration is invalid: {requirement}.")


class Model(NamedModel, ModelMixin, ConfigMixin, LoraAdapters):
    """A model of diffusers, found by name, with LoRA adapters; it computes where hooks bring its weights."""

    @property
    def device(self) -> torch.device:
        """Where the model computes, also while its weights are offloaded."""
        return execution_device(self)

    def enable_layerwise_casting(
        self,
        storage_dtype: torch.dtype = torch.float8_e4m3fn,
        compute_dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        """Store weights in `storage_dtype` and cast them for each call (see diffusers).

        Layers that keep their weights, of which a small error is a large one of the frames, get the
        `compute_dtype` (by default the present one) as well.
        """
        self.to(dtype=compute_dtype or self.dtype)
        super().enable_layerwise_casting(storage_dtype, compute_dtype or self.dtype, **options)
