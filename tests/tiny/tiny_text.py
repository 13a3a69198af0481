"""Text encoders with random weights and a tokenizer of few words, in folders as transformers saves them."""

import string
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = ["a", "the", "red", "green", "ball", "cat", "rolls", "sits", "on", "mat", "over", "and", "then"]
LIMIT = 24  # tokens, says the tokenizer


def save_tokenizer(folder: Path, begin: bool, end: bool) -> int:
    """A tokenizer of whole words, and letters as a last resort; answers the size of its vocabulary."""
    words = ["<pad>", "<s>", "</s>", "<unk>", *dict.fromkeys([*WORDS, *string.ascii_lowercase])]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    template = f"{'<s> ' if begin else ''}$A{' </s>' if end else ''}"
    marks = [(word, vocabulary[word]) for word in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=marks)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=LIMIT,
    ).save_pretrained(folder)
    return len(words)


def make_t5(folder: Path) -> str:
    """A whole T5, of encoder and decoder; its states have 32 numbers."""
    size = save_tokenizer(folder, begin=False, end=True)
    config = transformers.T5Config(
        vocab_size=size, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    return _saved(transformers.T5ForConditionalGeneration(config), folder)


def make_clip(folder: Path) -> str:
    """A whole CLIP, of text and images; its states of tokens have 24 numbers."""
    size = save_tokenizer(folder, begin=True, end=True)
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = sizes | {"vocab_size": size, "max_position_embeddings": 20, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.CLIPConfig(
        text_config=text, vision_config=sizes | {"image_size": 16, "patch_size": 8}, projection_dim=16
    )
    return _saved(transformers.CLIPModel(config), folder)


def make_gemma(folder: Path) -> str:
    """A language model; its states have 16 numbers."""
    size = save_tokenizer(folder, begin=True, end=False)
    config = transformers.GemmaConfig(
        vocab_size=size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    return _saved(transformers.GemmaForCausalLM(config), folder)


def _saved(model: transformers.PreTrainedModel, folder: Path) -> str:
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return str(folder)
