"""Recipe: a full training configuration of an embedder, and the model that it describes."""

from dataclasses import asdict, dataclass, field
from typing import Generic, TypeVar

from regen.data.tasks import Stage, TaskConfig
from regen.embedders.diffusion_decoder import DecoderConfig
from regen.embedders.frozen_encoder import FrozenEncoder
from regen.embedders.magvit2 import AutoencoderMagvit2, Magvit2Config
from regen.embedders.one_dva import AutoencoderOneDVA, OneDVAConfig
from regen.embedders.regen import AutoencoderRegen, RegenConfig
from regen.embedders.regen_decoder import RegenDecoder, RegenDecoderConfig
from regen.losses.auxiliary import LossConfig
from regen.train.finetune import InitConfig
from regen.train.loop import LoopConfig
from regen.train.optimizer import OptimizerConfig


@dataclass(frozen=True)
class DataConfig:
    """Clips for training and validation."""

    stages: tuple[Stage, ...]
    scale: tuple[float, float] | None = (0.5, 1.0)
    """Range of random scales at which crops are taken; 1 is the original size. None: the largest crop of the
    aspect ratio, so that the whole picture is seen."""
    short_side: int | None = None
    """Size to which larger pictures are reduced first; a frame cache keeps them in this size."""
    frame_rate: float | None = None
    """Frames per second of the clips; None keeps each video's frame rate."""
    num_val_videos: int = 2
    """Videos held out for evaluations; with 0 the evaluations use the training videos."""
    num_val_clips: int = 8
    """Clips of the validation videos that an evaluation reconstructs."""
    statistics_clips: int = 10_000
    """Clips over which mean and standard deviation of the latents are measured at the end."""
    decode_timeout: float = 60.0
    """Seconds to decode one sample; then another sample replaces it, and the log counts it."""

    def __post_init__(self) -> None:
        for name, minimum in (("num_val_clips", 1), ("statistics_clips", 1), ("num_val_videos", 0)):
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} must be >= {minimum}, got {getattr(self, name)}.")


ModelConfig = RegenConfig | Magvit2Config | OneDVAConfig | RegenDecoderConfig
Autoencoder = AutoencoderRegen | AutoencoderMagvit2 | AutoencoderOneDVA | RegenDecoder
MODEL_CLASSES: dict[type[ModelConfig], type[Autoencoder]] = {
    RegenConfig: AutoencoderRegen,
    Magvit2Config: AutoencoderMagvit2,
    OneDVAConfig: AutoencoderOneDVA,
    RegenDecoderConfig: RegenDecoder,
}
M = TypeVar("M", RegenConfig, Magvit2Config, OneDVAConfig, RegenDecoderConfig, covariant=True)


@dataclass(frozen=True)
class Recipe(Generic[M]):
    """A full training configuration; `regen.recipes` has the named ones."""

    model: M
    data: DataConfig
    loop: LoopConfig
    tasks: TaskConfig = field(default_factory=TaskConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    init: InitConfig = field(default_factory=InitConfig)

    def __post_init__(self) -> None:
        losses = self.losses
        if isinstance(self.model, DecoderConfig) and losses.adversarial.weight > 0:
            raise ValueError("REGEN has no discriminator: losses.adversarial.weight must be 0.")
        if not isinstance(self.model, DecoderConfig) and self.tasks.warmup_fraction < 1:
            raise ValueError("Only REGEN decodes frames it does not encode; set tasks.warmup_fraction to 1.")
        if isinstance(self.model, RegenDecoderConfig) and self.tasks.decoded_frames is not None:
            raise ValueError("A decoder of foreign latents has groups_per_clip in place of decoded_frames.")
        weights = losses.alignment.weight, losses.representation.weight, losses.prediction.share
        if self.init.linear_clips > 0 and not getattr(self.model, "linear_path", False):
            raise ValueError("init.linear_clips is for a decoder of foreign latents with model.linear_path.")
        if not isinstance(self.model, OneDVAConfig) and max(*weights, self.init.pca_clips) > 0:
            raise ValueError(
                "Only One-DVA takes losses.alignment, .representation and .prediction, and init.pca_clips."
            )


def group_of(recipe: Recipe) -> int | None:
    """Frames of a group, for a decoder of foreign latents, which has tasks of its own."""
    model = recipe.model
    return model.temporal_compression_ratio if isinstance(model, RegenDecoderConfig) else None


def build_model(config: ModelConfig, encoder: FrozenEncoder | None = None) -> Autoencoder:
    """The model of a configuration; with the latents of `encoder`, if given."""
    if isinstance(config, RegenDecoderConfig):
        decoder = RegenDecoder(**asdict(config))
        if encoder is not None:
            decoder.attach_encoder(encoder)
        return decoder
    return MODEL_CLASSES[type(config)](**asdict(config))
