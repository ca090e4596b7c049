"""A small MBPP+ of three starter tasks, and an lm-eval model that answers by a rule."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import promptrl_plugin

STARTER = Path(promptrl_plugin.__file__).parent / "suites" / "data" / "starter.jsonl"


def rows(n: int = 3) -> list[dict[str, Any]]:
    """The first `n` starter tasks, in EvalPlus's MBPP+ schema."""
    with STARTER.open(encoding="utf-8") as f:
        return [json.loads(next(f)) for _ in range(n)]


def write_override(path: Path, n: int = 3) -> Path:
    """A file for ``MBPP_OVERRIDE_PATH``."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(n)), encoding="utf-8")
    return path


def program(row: dict[str, Any]) -> str:
    """A right program."""
    return str(row["prompt"] + row["canonical_solution"])


def wrong(row: dict[str, Any]) -> str:
    """A program that defines the entry point and nothing else."""
    return f"def {row['entry_point']}(*args):\n    return None\n"


def rule_lm(rule: Callable[[str, dict[str, Any]], str], *, tokenizer: Any = None) -> Any:
    """An ``lm_eval.api.model.LM`` that answers by `rule(context, gen_kwargs)`, and records what it was asked."""
    from lm_eval.api.model import LM

    class RuleLM(LM):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[list[tuple[str, dict[str, Any]]]] = []
            self.tokenizer = tokenizer
            self.pretrained = "rule-lm"

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            self.calls.append([r.args for r in requests])
            return [rule(*r.args) for r in requests]

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            text = "".join(f"<{t['role']}>{t['content']}" for t in chat_history)
            return text + ("<assistant>" if add_generation_prompt else "")

        @property
        def tokenizer_name(self) -> str:
            return "rule"

        def loglikelihood(self, requests: Any) -> Any:
            raise NotImplementedError

        def loglikelihood_rolling(self, requests: Any) -> Any:
            raise NotImplementedError

    return RuleLM()


def answers(programs: Callable[[dict[str, Any]], str], n: int = 3) -> Callable[[str, dict[str, Any]], str]:
    """A rule that recognises the task by its prompt."""
    table = {row["prompt"].strip(): programs(row) for row in rows(n)}

    def rule(context: str, _kwargs: dict[str, Any]) -> str:
        return next(text for prompt, text in table.items() if prompt in context) + "\n```\nDone."

    return rule


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a JSON Lines file."""
    return (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
