"""Nodes of regen for ComfyUI, which looks here for `comfy_entrypoint`."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
