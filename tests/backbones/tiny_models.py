"""Tiny random models with real tokenizers, saved as folders that `from_pretrained` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

CHARACTERS = [chr(c) for c in range(32, 127)] + ["\n", "\t"]
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(chat: bool) -> Any:
    """One token a character, and ``<|im_start|>``, ``<|im_end|>``, ``<pad>``, ``</s>``."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: i for i, token in enumerate(special + CHARACTERS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    if chat:
        fast.chat_template = CHAT_TEMPLATE
    return fast


def save_causal(folder: Path, *, chat: bool = True, seed: int = 0, kind: str = "llama", **overrides: Any) -> Path:
    """A causal model of two layers, 4 heads and 2 key heads, with weights large enough to have opinions."""
    import transformers

    names = {
        "llama": ("LlamaConfig", "LlamaForCausalLM"),
        "qwen2": ("Qwen2Config", "Qwen2ForCausalLM"),
        "mistral": ("MistralConfig", "MistralForCausalLM"),
        "gemma2": ("Gemma2Config", "Gemma2ForCausalLM"),
    }
    tok = tokenizer(chat)
    config_name, model_name = names[kind]
    config = getattr(transformers, config_name)(
        **{
            "vocab_size": len(tok),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 512,
            "pad_token_id": 0,
            "bos_token_id": None,
            "eos_token_id": 1,
            **overrides,
        }
    )
    return _save(getattr(transformers, model_name), config, tok, folder, seed)


def save_seq2seq(folder: Path, *, seed: int = 0) -> Path:
    """A T5 of two layers."""
    import transformers

    tok = tokenizer(chat=False)
    config = transformers.T5Config(
        vocab_size=len(tok),
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    return _save(transformers.T5ForConditionalGeneration, config, tok, folder, seed)


def _save(cls: Any, config: Any, tok: Any, folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    model = cls(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.4)
    model.save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder
