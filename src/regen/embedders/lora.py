"""LoraAdapters: the LoRA methods of diffusers, which are loaded when one of them is used."""

from collections.abc import Callable
from typing import Any


class _OnUse:
    """A method of diffusers' `PeftAdapterMixin`."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, model: object | None, owner: type) -> Callable[..., Any]:
        from diffusers.loaders import PeftAdapterMixin  # a second or two, with peft and transformers

        return getattr(PeftAdapterMixin, self.name).__get__(model, owner)


class LoraAdapters:
    """All that `diffusers.loaders.PeftAdapterMixin` has, by the same names; it needs the extra `lora`."""

    _hf_peft_config_loaded = False
    _prepare_lora_hotswap_kwargs: dict[str, Any] | None = None

    load_lora_adapter = _OnUse()
    save_lora_adapter = _OnUse()
    add_adapter = _OnUse()
    set_adapter = _OnUse()
    set_adapters = _OnUse()
    active_adapters = _OnUse()
    enable_adapters = _OnUse()
    disable_adapters = _OnUse()
    delete_adapters = _OnUse()
    enable_lora = _OnUse()
    disable_lora = _OnUse()
    unload_lora = _OnUse()
    fuse_lora = _OnUse()
    unfuse_lora = _OnUse()
    enable_lora_hotswap = _OnUse()
    _fuse_lora_apply = _OnUse()
    _unfuse_lora_apply = _OnUse()
    _optionally_disable_offloading = _OnUse()
