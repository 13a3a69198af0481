"""NamedPipeline: a diffusers pipeline that is loaded by the names of models."""

import os
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from regen.generate.load import load_video_generator
from regen.names import ADVICE, CONFIG, PIPELINE, WithoutAutoMap, resolve
from regen.public import MODULES


class NamedPipeline(WithoutAutoMap, DiffusionPipeline):
    """A pipeline of generator, embedder (`vae`), `text_encoder` and `tokenizer`, saved or by name."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Any
    ) -> "NamedPipeline":
        """A saved pipeline, or that of a generator, whose embedder and text encoder are found by their names.

        Takes all names of models (see `regen.names`) and the options of diffusers; for a generator those are
        `torch_dtype` and components to use. Raises ValueError when a part is missing.
        """
        found = resolve(pretrained_model_name_or_path, options)
        if not (Path(found) / CONFIG).is_file():
            if Path(found).is_dir() and not (Path(found) / PIPELINE).is_file():
                raise ValueError(f"The folder {found} holds no pipeline: it has no {PIPELINE}; {ADVICE}.")
            return super().from_pretrained(found, **options)
        dtype = options.pop("torch_dtype", None) or options.pop("dtype", None) or torch.float32
        videos = load_video_generator(str(found), torch.device("cpu"), dtype)
        parts: dict[str, Any] = {"generator": videos.model, "vae": videos.embedder}
        if videos.text_encoder is not None:
            parts |= {"text_encoder": videos.text_encoder.model, "tokenizer": videos.text_encoder.tokenizer}
        return cls(**parts | {name: options[name] for name in options if name in parts})

    @classmethod
    def load_config(cls, *args: Any, **options: Any) -> Any:
        """The index of a saved pipeline, with the models of this package even where it has code for them."""
        index = super().load_config(*args, **options)
        if isinstance(index, dict):
            index["_class_name"] = cls.__name__
            index |= {name: ["regen", value[1]] for name, value in index.items() if _is_own(value)}
        return index


def _is_own(component: Any) -> bool:
    """Whether an entry of model_index.json, (module, class), is a model of this package."""
    return isinstance(component, list) and component[1] in MODULES
