from __future__ import annotations

import pytest

from promptrl_plugin.backbones.base import Backbone
from promptrl_plugin.backbones.scripted import ScriptedBackbone
from promptrl_plugin.errors import BackboneError
from promptrl_plugin.records import Completion, Decoding, GenerationRequest, Message, Prompt

PROMPT = Prompt(
    (Message("system", "be brief"), Message("user", "add two")), "```python", "def add", ("STOP",), ("END",)
)
REQUEST = GenerationRequest(PROMPT, Decoding())


def test_first_key_that_occurs_answers() -> None:
    backbone = ScriptedBackbone({"subtract": "no", "add": "yes", "": "other"})
    assert isinstance(backbone, Backbone)
    assert backbone.generate([REQUEST]) == [Completion("yes", 5, 1, "stop")]


def test_keys_match_the_form_that_is_used() -> None:
    rule = {"be brief": "chat", "def add": "plain"}
    assert ScriptedBackbone(rule).generate([REQUEST])[0].text == "chat"
    plain = ScriptedBackbone(rule, chat=False).generate([REQUEST])[0]
    assert (plain.text, plain.plain) == ("plain", True)


def test_obeys_stop_strings_and_length() -> None:
    def rule(r: GenerationRequest) -> str:
        return "a b STOP c END d"

    assert ScriptedBackbone(rule).generate([REQUEST])[0].text == "a b "
    assert ScriptedBackbone(rule, chat=False).generate([REQUEST])[0].text == "a b STOP c "
    short = ScriptedBackbone(rule).generate([GenerationRequest(PROMPT, Decoding(max_new_tokens=1))])[0]
    assert (short.text, short.finish_reason, short.completion_tokens) == ("a", "length", 1)


def test_records_calls_and_reports_progress() -> None:
    backbone, seen = ScriptedBackbone({"": "x"}), []
    backbone.generate([REQUEST, REQUEST], lambda i, c: seen.append((i, c.text)))
    backbone.generate([REQUEST])
    assert [len(c) for c in backbone.calls] == [2, 1]
    assert len(backbone.requests) == 3
    assert seen == [(0, "x"), (1, "x")]


def test_no_answer_is_an_error() -> None:
    with pytest.raises(BackboneError, match="no answer for"):
        ScriptedBackbone({"xyz": "1"}).generate([REQUEST])
