"""Initial weights from another model, and freezing."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from regen.embedders.base import VideoAutoencoder
from regen.embedders.pyramid import LINEAR_PATH
from regen.networks.conditioning import default_frequency
from regen.pretrained.listing import find_model, stored_config
from regen.pretrained.models import stored_weights
from regen.train.checkpoint import list_checkpoints, load_ema, read_info

Part = Literal["encoder", "decoder", "linear"]

LINEAR_MAPS = ("encoder.linear_skip.", "decoder.linear_skip.", *LINEAR_PATH)
ENCODERS = ("encoder", "linear_encoder")  # attributes on which latents depend
SIREN_INPUT = "conditioner.siren.layers.0.linear."  # its output is multiplied by the frequency
MAX_NAMES = 3  # tensors of each part that a report names


@dataclass(frozen=True)
class InitConfig:
    """Initial weights and frozen parts; by default random weights that all learn."""

    model: str | None = None
    """Load the weights of this model as far as names and shapes fit: a name from `regen models`, a folder,
    the folder of a run (its EMA, if it is not finished), or owner/name on the Hugging Face Hub. Ratio,
    channels and size may differ; what was loaded is printed."""
    freeze: tuple[Part, ...] = ()
    """Parts to freeze: encoder; decoder, with all that conditions it; or linear, the linear skip maps."""
    pca_clips: int = 0
    """One-DVA: initialise the linear skip maps with the principal components of the patches of this many
    clips; 0: at random. Not together with a model, which brings its own. Freeze them too: the learning rates
    of a training from scratch would destroy them."""
    linear_clips: int = 0
    """A decoder of foreign latents with model.linear_path: fit that linear map to this many clips, by least
    squares; 0: it starts at zero."""
    linear: str | None = None
    """Load the linear path of a model with linear_skip overlapping from this linear embedder of the same
    ratio and channels: a name from `regen models` such as linear-4x, or a folder. A `model` of this ratio and
    these channels that has a linear path keeps its own."""

    def __post_init__(self) -> None:
        if self.pca_clips < 0 or (self.pca_clips and self.model is not None):
            raise ValueError(f"pca_clips must be >= 0, and 0 with a model, got {self.pca_clips}.")
        if self.linear_clips < 0:
            raise ValueError(f"linear_clips must be >= 0, got {self.linear_clips}.")
        if {"encoder", "decoder"} <= set(self.freeze):
            raise ValueError("With encoder and decoder frozen nothing is trained; freeze only one of them.")


@dataclass(frozen=True)
class LoadedPart:
    """What a part of the model, such as its encoder, took from the source model."""

    part: str
    tensors: int
    parameters: int
    loaded_parameters: int
    new: tuple[str, ...]
    """Tensors that keep their initialisation, each with the reason."""
    unused: tuple[str, ...]
    """Tensors of the source model without a counterpart."""

    def __str__(self) -> str:
        if not self.tensors:
            return f"  {self.part}: only in the source model"
        count = f"{self.tensors - len(self.new)} of {self.tensors}" if self.new else f"all {self.tensors}"
        size = _millions(self.loaded_parameters, self.parameters)
        lines = [f"  {self.part}: {count} tensors loaded, {size}"]
        for label, names in (("new", self.new), ("unused", self.unused)):
            if names:
                more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
                lines.append(f"    {label}: {', '.join(names[:MAX_NAMES])}{more}")
        return "\n".join(lines)


@dataclass(frozen=True)
class InitReport:
    """Result of `init_weights`; as text for users, empty without a source model and frozen parts."""

    config: InitConfig
    parts: tuple[LoadedPart, ...] = ()
    whole_encoder: bool = False
    """The whole encoder was loaded, and computes what it did in the source model."""
    keeps_latents: bool = False
    """That encoder is frozen too, so the latents and their statistics (already in the model) stay valid."""

    @property
    def warning(self) -> str | None:
        """Warning about a frozen encoder that is not a trained one as a whole."""
        if "encoder" not in self.config.freeze or self.whole_encoder:
            return None
        return "The encoder is frozen but not fully pretrained: its new parts, or its new ratio, never learn."

    def __str__(self) -> str:
        lines = []
        if self.parts:
            tensors, new = sum(p.tensors for p in self.parts), sum(len(p.new) for p in self.parts)
            sizes = sum(p.loaded_parameters for p in self.parts), sum(p.parameters for p in self.parts)
            count = f"{tensors - new} of {tensors} tensors loaded, {_millions(*sizes)}"
            names = " and ".join(filter(None, (self.config.model, self.config.linear)))
            lines = [f"Starting from {names}: {count}", *map(str, self.parts)]
        for part in set(self.config.freeze):
            latents = ", so the latents do not change" if self.keeps_latents and part != "linear" else ""
            lines.append(f"  frozen: the {part}{' maps' if part == 'linear' else ''}{latents}")
        return "\n".join(lines)


def init_weights(model: VideoAutoencoder, config: InitConfig) -> InitReport:
    """Load the weights of `config.model` into `model` where names and shapes fit, and freeze parts.

    The linear path is that of `config.linear`, if `config.model` has none of this ratio. Call it before
    optimizers and averages are made.
    The source model may be of another class. The latent statistics come with a whole encoder that is frozen.
    Raises ValueError when there is no such model, it is damaged, none of its tensors fits, the linear
    embedder has another ratio, or linear maps are to be frozen that do not exist or are random.
    """
    starts = config.model, config.linear, config.pca_clips or None
    if "linear" in config.freeze and not any(starts):
        raise ValueError(
            "Frozen linear maps must be initialised: give --init.model, --init.linear or --init.pca-clips."
        )
    freeze_parts(model, config.freeze)
    if config.model is None and config.linear is None:
        return InitReport(config)
    source: Mapping[str, Any] = {}
    tensors: Iterable[tuple[str, Tensor]] = ()
    if config.model is not None:
        source, tensors = _read_source(config.model)
        tensors = _with_frequency(tensors, source, model.config)
        if _has_linear_path(source, model.config):
            config = replace(config, linear=None)
    if config.linear is not None:
        tensors = _with_linear_path(tensors, config.linear, model.config)
    parts = _load_matching(model, tensors)
    if not any(part.loaded_parameters for part in parts):
        raise ValueError(
            f"No weights of {config.model} ({source['_class_name']}) fit; use another --init.model."
        )
    loaded = all(not part.new and not part.unused for part in parts if part.part in ENCODERS)
    whole = loaded and config.linear is None and _encoder_key(source) == _encoder_key(model.config)
    mean, std = source.get("latents_mean"), source.get("latents_std")
    # Another class cuts videos into other chunks, whose latents have other statistics.
    has_statistics = None not in (mean, std) and source.get("_class_name") == type(model).__name__
    keeps_latents = whole and has_statistics and "encoder" in config.freeze
    if keeps_latents:
        model.set_latent_statistics(torch.tensor(mean), torch.tensor(std))
    return InitReport(config, parts, whole, keeps_latents)


def freeze_parts(model: VideoAutoencoder, parts: tuple[Part, ...]) -> None:
    """Freeze parts of a model. Raises ValueError for linear maps that it does not have."""
    for name, part in model.named_children():
        if ("encoder" if name in ENCODERS else "decoder") in parts:
            part.requires_grad_(False)
    if "linear" in parts:
        weights = [weight for name, weight in model.named_parameters() if name.startswith(LINEAR_MAPS)]
        if not weights:
            raise ValueError("This model has no linear maps to freeze; drop linear from --init.freeze.")
        for weight in weights:
            weight.requires_grad_(False)


def inflate_kernel(kernel: Tensor, shape: torch.Size) -> Tensor:
    """Resize a 3D convolution kernel along time to `shape`, keeping its sum over time.

    A still clip so gives the same features at another ratio. Other tensors are returned as they are.
    """
    size = kernel.shape
    if kernel.ndim != 5 or size == shape or (*size[:2], *size[3:]) != (*shape[:2], *shape[3:]):
        return kernel
    old, new = size[2], shape[2]
    taps = rearrange(kernel.float(), "o i t h w -> 1 (o i h w) t")
    resized = F.interpolate(taps, new, mode="linear", align_corners=True) * old / new
    resized = resized + (taps.sum(2, keepdim=True) - resized.sum(2, keepdim=True)) / new
    sizes = {"o": shape[0], "i": shape[1], "h": shape[3]}
    return rearrange(resized, "1 (o i h w) t -> o i t h w", **sizes).to(kernel.dtype)


def _read_source(name: str) -> tuple[Mapping[str, Any], Iterable[tuple[str, Tensor]]]:
    """Configuration and weights of the source model."""
    folder = find_model(name)
    checkpoints = list_checkpoints(folder / "checkpoints")
    if not checkpoints:
        return stored_config(folder), stored_weights(folder)
    run = read_info(checkpoints[-1]).config
    return run["model"] | {"_class_name": run["class"]}, load_ema(checkpoints[-1]).items()


def _with_frequency(
    tensors: Iterable[tuple[str, Tensor]], source: Mapping[str, Any], target: Mapping[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    """Weights of `source`, with those that a SIREN multiplies by its frequency scaled to that of `target`."""
    ratio, frequency = source.get("temporal_compression_ratio", 1), source.get("siren_frequency")
    scale = (frequency or default_frequency(ratio)) / target.get("siren_frequency", 1.0)
    for name, values in tensors:
        yield name, values * scale if name.startswith(SIREN_INPUT) else values


def _has_linear_path(source: Mapping[str, Any], target: Mapping[str, Any]) -> bool:
    """Whether the source model has the linear path of the target: of its ratio and channels."""
    keys = "linear_skip", "temporal_compression_ratio", "latent_channels"
    return source.get("linear_skip") == "overlapping" and all(source[key] == target[key] for key in keys)


def _with_linear_path(
    tensors: Iterable[tuple[str, Tensor]], name: str, target: Mapping[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    """Weights with the linear path of the linear embedder `name` in place of their own."""
    if target.get("linear_skip") != "overlapping":
        raise ValueError("init.linear needs --model.linear-skip overlapping.")
    folder = find_model(name)
    source, keys = stored_config(folder), ("temporal_compression_ratio", "latent_channels")
    wanted, found = ([config.get(key) for key in keys] for config in (target, source))
    if source["_class_name"] != "AutoencoderLinear" or wanted != found:
        raise ValueError(
            f"init.linear must be a linear embedder of ratio {wanted[0]} with {wanted[1]} channels, {name} is"
            f" an {source['_class_name']} of ratio {found[0]} with {found[1]}; fit one by "
            "benchmarks/fit_linear.py."
        )
    yield from ((own, values) for own, values in tensors if not own.startswith(LINEAR_MAPS))
    yield from ((f"linear_{own}", values) for own, values in stored_weights(folder))


@torch.no_grad()
def _load_matching(model: nn.Module, weights: Iterable[tuple[str, Tensor]]) -> tuple[LoadedPart, ...]:
    """Copy the tensors whose name and shape fit; what each part of `model` took.

    Of a part that fits by less than half, such as one of another width, what begins at zero stays at zero:
    trained last layers on random features would be worse than none.
    """
    target, source_shapes = model.state_dict(), dict[str, str]()
    zeros = {name for name, values in target.items() if not values.any()}
    for name, values in weights:
        if name in target:
            size, values = values.shape, inflate_kernel(values, target[name].shape)
            if name.startswith("linear_decoder."):  # a kernel of frames, each as bright as before
                values = values * (values.numel() / size.numel())
        source_shapes[name] = _shape(values)
        if name in target and target[name].shape == values.shape:
            target[name].copy_(values)
    parts = dict.fromkeys(name.partition(".")[0] for name in (*target, *source_shapes))
    loaded = tuple(_loaded_part(part, target, source_shapes) for part in parts)
    for part in loaded:
        if 2 * part.loaded_parameters < part.parameters:
            for name in (name for name in zeros if name.startswith(f"{part.part}.")):
                target[name].zero_()
                source_shapes.pop(name, None)
    return tuple(_loaded_part(part.part, target, source_shapes) for part in loaded)


def _loaded_part(part: str, target: dict[str, Tensor], source_shapes: dict[str, str]) -> LoadedPart:
    start, sizes, new = f"{part}.", [], []
    own = {name: tensor for name, tensor in target.items() if name.startswith(start)}
    for name, tensor in own.items():
        here, there = _shape(tensor), source_shapes.get(name)
        if here == there:
            sizes.append(tensor.numel())
        else:
            difference = "" if there is None else f" ({there} in the source, {here} here)"
            new.append(name.removeprefix(start) + difference)
    parameters = sum(tensor.numel() for tensor in own.values())
    others = (name for name in source_shapes if name not in target)
    unused = [name.removeprefix(start) for name in others if name.startswith(start)]
    return LoadedPart(part, len(own), parameters, sum(sizes), tuple(new), tuple(unused))


def _encoder_key(config: Mapping[str, Any]) -> list[object]:
    """What latents depend on besides the encoder's weights."""
    fields = (
        *("temporal_compression_ratio", "latent_channels", "encoder_patch_size", "chunk_frames"),
        *("spatial_compression_ratio", "query_positions", "region_size"),
    )
    structural_only = config.get("objective", {}).get("lengths") == "none"
    return [*(config.get(name) for name in fields), config.get("kl_weight", 0.0) > 0, structural_only]


def _millions(loaded: int, parameters: int) -> str:
    return f"{loaded / 1e6:.2f} of {parameters / 1e6:.2f} million parameters"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
