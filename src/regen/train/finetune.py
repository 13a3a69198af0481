"""Fine-tuning: begin with the weights of another model as far as they fit, and train only a part of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from regen.embedders.magvit2 import AutoencoderMagvit2
from regen.embedders.one_dva import AutoencoderOneDVA
from regen.embedders.regen import AutoencoderRegen
from regen.pretrained.models import find_model, stored_config, stored_weights
from regen.train.checkpoint import list_checkpoints, load_ema, read_info

Half = Literal["encoder", "decoder", "linear"]

LINEAR_MAPS = ("encoder.shortcut.", "decoder.shortcut.")
NAMED = 3  # tensors of each part that a report names before it only counts them


@dataclass(frozen=True)
class InitConfig:
    """What a training begins with; by default new weights, all of which learn."""

    model: str | None = None
    """Begin with the weights of this model, as far as they fit: a name from `regen models`, a folder, the
    folder of a run (its moving average, where it is not finished), or owner/name on the Hugging Face Hub. It
    may have another ratio, other channels or another size; what was kept is told."""
    freeze: tuple[Half, ...] = ()
    """Leave this half as it is: the encoder, or the decoder with all that tells it of the latents; or the
    linear maps beside both (linear)."""
    pca_clips: int = 0
    """One-DVA: let the linear maps beside its transformers begin with the principal components of the patches
    of so many clips; 0: at random. Not with a start model, which brings them. Freeze them then: with the
    learning rates of a training from nothing they would be lost again."""

    def __post_init__(self) -> None:
        if self.pca_clips < 0 or (self.pca_clips and self.model is not None):
            raise ValueError("Start at the components of 1 clip or more, or from a model, not at both.")
        if {"encoder", "decoder"} <= set(self.freeze):
            raise ValueError("With encoder and decoder frozen nothing learns; freeze one of them.")


@dataclass(frozen=True)
class LoadedPart:
    """What a part of the model, such as its encoder, has of the start model."""

    part: str
    tensors: int
    loaded_tensors: int
    parameters: int
    loaded_parameters: int
    new: tuple[str, ...]
    """The tensors that begin anew, each with the reason."""
    unused: tuple[str, ...]
    """The start model's tensors that have no place here."""

    def __str__(self) -> str:
        if not self.tensors:
            return f"  {self.part}: the start model's has no place here"
        count = f"{self.loaded_tensors} of {self.tensors}" if self.new else f"all {self.tensors}"
        lines = [f"  {self.part}: {count} tensors kept, {_millions(self.loaded_parameters, self.parameters)}"]
        for about, names in (("new", self.new), ("left out", self.unused)):
            if names:
                more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
                lines.append(f"    {about}: {', '.join(names[:NAMED])}{more}")
        return "\n".join(lines)


@dataclass(frozen=True)
class InitReport:
    """What became of a `InitConfig`. As text, what a person should know; empty where there is nothing."""

    config: InitConfig
    parts: tuple[LoadedPart, ...] = ()
    whole_encoder: bool = False
    """The encoder is the start model's, all of it, and works as it did there."""
    keeps_latents: bool = False
    """That encoder is frozen as well: so are the latents, with their mean and deviation, which are stored in
    the model already and must not be measured again."""

    @property
    def warning(self) -> str | None:
        """One sentence on what is allowed and hardly meant: a frozen encoder that nobody has trained."""
        if "encoder" not in self.config.freeze or self.whole_encoder:
            return None
        return (
            "The encoder is frozen, but it is not a trained one as a whole: what is new in it, or works at "
            "another ratio now, never learns."
        )

    def __str__(self) -> str:
        lines = []
        if self.parts:
            kept, tensors = sum(p.loaded_tensors for p in self.parts), sum(p.tensors for p in self.parts)
            numbers = sum(p.loaded_parameters for p in self.parts), sum(p.parameters for p in self.parts)
            count = f"{kept} of {tensors} tensors kept, {_millions(*numbers)}"
            lines = [f"Starting from {self.config.model}: {count}", *map(str, self.parts)]
        for half in set(self.config.freeze):
            kept = self.keeps_latents and half != "linear"
            latents = ", and the latents stay those of the start model" if kept else ""
            lines.append(f"  frozen: the {half}{' maps' if half == 'linear' else ''}{latents}")
        return "\n".join(lines)


def init_weights(
    model: AutoencoderRegen | AutoencoderMagvit2 | AutoencoderOneDVA, config: InitConfig
) -> InitReport:
    """Put the weights of `config.model` into `model`, tensor by tensor where name and shape fit, and freeze.

    Call it before optimizers and averages are made of the model. The start model may be of another class.
    Where its encoder comes over whole and is frozen, the statistics of its latents come with it.

    Raises ValueError when there is no such model, it is damaged, none of its tensors fits, or linear maps are
    to be frozen that are not there or that nothing has fitted.
    """
    for name, part in model.named_children():
        if ("encoder" if name == "encoder" else "decoder") in config.freeze:
            part.requires_grad_(False)
    if "linear" in config.freeze:
        _freeze_linear_maps(model, config)
    if config.model is None:
        return InitReport(config)
    source, weights = _source(config.model)
    parts = _copy(model, weights)
    if not any(part.loaded_tensors for part in parts):
        raise ValueError(
            f"No weights of {config.model} ({source['_class_name']}) fit this model; "
            "start from another one, or without --init.model."
        )
    encoder = next(part for part in parts if part.part == "encoder")
    whole = not encoder.new and not encoder.unused and _encoder_facts(source) == _encoder_facts(model.config)
    mean, std = source.get("latents_mean"), source.get("latents_std")
    # Another class cuts videos into other chunks, of whose latents nothing is known.
    known = mean is not None and std is not None and source["_class_name"] == type(model).__name__
    keeps_latents = whole and known and "encoder" in config.freeze
    if keeps_latents:
        model.set_latent_statistics(torch.tensor(mean), torch.tensor(std))
    return InitReport(config, parts, whole, keeps_latents)


def _freeze_linear_maps(model: nn.Module, config: InitConfig) -> None:
    weights = [weight for name, weight in model.named_parameters() if name.startswith(LINEAR_MAPS)]
    if not weights:
        raise ValueError("This model has no linear maps to freeze; leave linear out of --init.freeze.")
    if config.model is None and not config.pca_clips:
        raise ValueError(
            "Frozen linear maps have to come from somewhere: give --init.model, such as a finished stage 1, "
            "or --init.pca-clips, or leave linear out of --init.freeze."
        )
    for weight in weights:
        weight.requires_grad_(False)


def _source(name: str) -> tuple[Mapping[str, Any], Iterable[tuple[str, Tensor]]]:
    """Configuration and weights of the start model."""
    folder = find_model(name)
    checkpoints = list_checkpoints(folder / "checkpoints")
    if not checkpoints:
        return stored_config(folder), stored_weights(folder)
    run = read_info(checkpoints[-1]).config
    return run["model"] | {"_class_name": run["class"]}, load_ema(checkpoints[-1]).items()


@torch.no_grad()
def _copy(model: nn.Module, weights: Iterable[tuple[str, Tensor]]) -> tuple[LoadedPart, ...]:
    """Copy the tensors that fit, and tell of each part of `model` what it has now."""
    target, there = model.state_dict(), dict[str, str]()
    for name, values in weights:
        if name in target:
            values = inflate_kernel(values, target[name].shape)
        there[name] = _shape(values)
        if name in target and target[name].shape == values.shape:
            target[name].copy_(values)
    here = {name: _shape(values) for name, values in target.items()}
    names = [name.partition(".")[0] for name in (*here, *there)]
    return tuple(_kept(part, target, here, there) for part in dict.fromkeys(names))


def inflate_kernel(values: Tensor, shape: torch.Size) -> Tensor:
    """The kernel of a 3D convolution with as many taps along time as `shape`, where only those differ.

    Its sum stays, so what a still clip becomes is the same at another ratio. Other tensors are left as they
    are.
    """
    if (
        values.ndim != 5
        or values.shape == shape
        or values[:, :, 0].shape != torch.Size((*shape[:2], *shape[3:]))
    ):
        return values
    taps, wanted = values.shape[2], shape[2]
    along = rearrange(values.float(), "o i t h w -> 1 (o i h w) t")
    longer = F.interpolate(along, wanted, mode="linear", align_corners=True)
    longer = longer * taps / wanted
    longer = longer + (along.sum(2, keepdim=True) - longer.sum(2, keepdim=True)) / wanted
    sizes = {"o": shape[0], "i": shape[1], "h": shape[3]}
    return rearrange(longer, "1 (o i h w) t -> o i t h w", **sizes).to(values.dtype)


def _kept(part: str, target: dict[str, Tensor], here: dict[str, str], there: dict[str, str]) -> LoadedPart:
    mine = [name for name in here if name.startswith(f"{part}.")]
    fitting = [name for name in mine if there.get(name) == here[name]]
    new = [
        name.removeprefix(f"{part}.")
        + (f" ({there[name]} there, {here[name]} here)" if name in there else "")
        for name in mine
        if there.get(name) != here[name]
    ]
    unused = [name for name in there if name.startswith(f"{part}.") and name not in here]
    return LoadedPart(
        part,
        tensors=len(mine),
        loaded_tensors=len(fitting),
        parameters=sum(target[name].numel() for name in mine),
        loaded_parameters=sum(target[name].numel() for name in fitting),
        new=tuple(new),
        unused=tuple(name.removeprefix(f"{part}.") for name in unused),
    )


def _encoder_facts(config: Mapping[str, Any]) -> list[object]:
    """What an encoder's latents depend on and the shapes of its weights don't show."""
    fields = (
        *("temporal_compression_ratio", "latent_channels", "encoder_patch_size", "chunk_frames"),
        *("spatial_compression_ratio", "query_positions", "region_size"),
    )
    return [*(config.get(name) for name in fields), config.get("kl_weight", 0.0) > 0]


def _millions(kept: int, parameters: int) -> str:
    return f"{kept / 1e6:.2f} of {parameters / 1e6:.2f} million parameters"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
