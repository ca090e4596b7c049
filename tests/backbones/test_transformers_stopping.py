"""Where completions end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import save_causal, tokenizer

from promptrl_plugin.backbones.stopping import StopRule, end_token_ids
from promptrl_plugin.backbones.transformers import TransformersBackbone
from promptrl_plugin.records import Decoding, GenerationRequest, Message, Prompt

FENCE = "\n```\n"
TOK = tokenizer(chat=True)
END = TOK.convert_tokens_to_ids("<|im_end|>")


def feed(text: str, strings: tuple[str, ...], limit: int = 1000, then: tuple[int, ...] = ()) -> tuple[str, str, int]:
    """Check after each token, as an engine does; returns text, reason and tokens until the end."""
    rule = StopRule(TOK, frozenset({END}), strings)
    done: list[int] = []
    for token in (*TOK.encode(text, add_special_tokens=False), *then):
        done.append(token)
        if (ending := rule.check(done, limit)) is not None:
            return ending.text, ending.reason, len(done)
    raise AssertionError("did not end")


@pytest.mark.parametrize(
    ("text", "strings", "expected"),
    [
        ("x = 1\n```\nmore", (FENCE,), ("x = 1", "stop", 10)),
        ("a\nprint(1)", ("\nprint(",), ("a", "stop", 8)),
        ("x" * 200 + "\nif __name__ ==", ("\nif __name__", "\nprint("), ("x" * 200, "stop", 212)),
        ("say ```python\n", (FENCE, "thon"), ("say ```py", "stop", 13)),
        ("abcd", ("bc", "c"), ("a", "stop", 3)),
    ],
)
def test_text_is_cut_before_the_first_stop_string(
    text: str, strings: tuple[str, ...], expected: tuple[str, str, int]
) -> None:
    assert feed(text, strings) == expected


def test_end_of_turn() -> None:
    assert feed("x = 1\n", (FENCE,), then=(END,)) == ("x = 1\n", "stop", 7)


def test_a_fence_before_the_end_of_turn_has_closed_the_block() -> None:
    assert feed("x = 1\n```", (FENCE,), then=(END,)) == ("x = 1", "stop", 10)
    assert feed("x = 1\n```", (), then=(END,)) == ("x = 1\n```", "stop", 10)


def test_length() -> None:
    assert feed("abcdef", ("zz",), limit=4) == ("abcd", "length", 4)


def test_a_stop_string_with_the_last_token_is_a_stop() -> None:
    assert feed("abzz", ("zz",), limit=4) == ("ab", "stop", 4)


def test_end_tokens_are_those_of_the_configurations_and_of_known_templates() -> None:
    class Config:
        eos_token_id = (7, 8)

    assert end_token_ids(TOK, Config(), None) == {7, 8, TOK.eos_token_id, END}


def test_special_tokens_among_the_stop_strings_end_by_id(tmp_path: Path) -> None:
    """EvalPlus's list has ``</s>``, which never shows in decoded text."""
    backbone = TransformersBackbone(save_causal(tmp_path), dtype="float32")
    rule = backbone._stop_rule(Prompt((Message("user", "hi"),), "", "", stop=("</s>", "<|im_start|>", "\nprint(")))
    assert rule.strings == ("\nprint(",)
    assert rule.end_ids == {1, 3, 4}


def test_stop_strings_of_the_form_that_is_used(tmp_path: Path) -> None:
    prompt = Prompt((Message("user", "hi"),), "", "hi", stop=tuple("abcdefghij"), plain_stop=())
    request = GenerationRequest(prompt, Decoding(max_new_tokens=60))
    chat = TransformersBackbone(save_causal(tmp_path / "chat"), dtype="float32")
    assert chat.completes
    without_turns = GenerationRequest(replace(prompt, messages=()), request.decoding)
    chatty, completed = chat.generate([request, without_turns])
    assert not set(chatty.text) & set("abcdefghij")
    assert not chatty.plain
    assert set(completed.text) & set("abcdefghij")
    assert completed.plain
    assert completed.prompt_tokens < chatty.prompt_tokens
    plain = TransformersBackbone(save_causal(tmp_path / "plain", chat=False), dtype="float32").generate([request])[0]
    assert set(plain.text) & set("abcdefghij")
    assert plain.plain
