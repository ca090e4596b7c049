"""Requests to the rewriter, and the rules that its answers must keep.

The acceptance rule is arXiv 2605.19102's (one sentence, names the function, says that it is a Python
function, no code), to which this project adds: numbers, quoted text and identifiers of the description
survive, and no value of the tests slips in. The answer's first words are given, so that small models
meet the rule more often than not; they also learn the form from two solved examples.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from promptrl_plugin.prompts.state import PromptState
from promptrl_plugin.prompts.task_text import protected_names, split
from promptrl_plugin.prompts.template import EOS, text
from promptrl_plugin.prompts.tokens import RESERVED, protected_tokens
from promptrl_plugin.records import Message, Prompt, Task

__all__ = ["Rewriting", "clarifying", "cleaned", "main_segment", "objection", "request", "simplifying"]

_SCRIPT_OPENING = "Write a Python program that"
_MAX_WORDS = 120
_MAX_GROWTH = 4.0
_CODE = re.compile(r"```|>>>|\bdef \w|\bassert\b|\blambda\b|\breturn\s+\w+\(|[;{}]|==|(?<![<>!=])=(?!=)")
_SENTENCE_END = re.compile(r"(?<![eE]\.g)(?<!i\.e)(?<!etc)[.!?](?=\s+[A-Z])")


@dataclass(frozen=True, slots=True)
class Rewriting:
    """One kind of rewrite.

    Attributes:
        instruction: What the rewriter is asked to do.
        opening: First words of every answer; ``{name}`` stands for the entry point.
        shown: Two solved examples: task, entry point, rest of the answer.
        names_function: Whether the answer must name the entry point.
    """

    instruction: str
    opening: str
    shown: tuple[tuple[str, str, str], ...]
    names_function: bool

    def begin(self, entry_point: str) -> str:
        """First words of every answer for a function of that name; a script (``""``) has none."""
        return self.opening.format(name=entry_point) if entry_point else _SCRIPT_OPENING


clarifying = Rewriting(
    instruction=(
        "Rewrite the task as one clear sentence that names the Python function and says what it takes and "
        "returns. Keep all numbers and quoted text. Do not write code."
    ),
    opening="Write a Python function named `{name}` that",
    shown=(
        (
            "Write a function to get the common letters of two words.\n"
            'assert common_letters("tree", "rest") == ["e", "r", "t"]',
            "common_letters",
            "takes two strings and returns a sorted list, without duplicates, of the letters that occur in both.",
        ),
        (
            "Write a function to check if every number is below 100 or not.\nassert all_below([3, 250]) == False",
            "all_below",
            "takes a list of numbers and returns True if every number in it is less than 100, and False otherwise.",
        ),
    ),
    names_function=True,
)

simplifying = Rewriting(
    instruction=(
        "Say in one short sentence, in plain words, what the function must do. Keep all numbers and quoted text. "
        "Do not write code."
    ),
    opening="Write a function that",
    shown=(
        (
            "Write a function that determines the aggregate of those constituents of the supplied list which are "
            "divisible by 3.\nassert total([1, 3, 6]) == 9",
            "total",
            "adds up the elements of a list that are divisible by 3.",
        ),
        (
            "Write a function to ascertain whether the given string commences with the character 'x' or not.\n"
            'assert begins("xyz") == True',
            "begins",
            "checks whether a string starts with 'x'.",
        ),
    ),
    names_function=False,
)


def request(rewriting: Rewriting, task: Task, state: PromptState) -> Prompt:
    """What the rewriter is asked, in chat and plain form; its answer ends at the line's end."""
    current = _shown_task(text(task, PromptState(state.prose)))
    opening = rewriting.begin(task.entry_point)
    messages: list[Message] = []
    plain = f"{rewriting.instruction}\n\n"
    for shown, name, rest in rewriting.shown:
        answer = f"{rewriting.begin(name)} {rest}"
        messages += [
            Message("user", f"{rewriting.instruction}\n\nTask: {shown}"),
            Message("assistant", answer),
        ]
        plain += f"Task: {shown}\nAnswer: {answer}\n\n"
    messages.append(Message("user", f"{rewriting.instruction}\n\nTask: {current}"))
    return Prompt(
        messages=tuple(messages),
        prefix=opening,
        plain=f"{plain}Task: {current}\nAnswer: {opening}",
        stop=(*EOS[:3], "\n"),
        plain_stop=(*EOS[:3], "\n"),
    )


def cleaned(rewriting: Rewriting, task: Task, answer: str) -> str:
    """The sentence that an answer amounts to: opening and first sentence, white space normalised."""
    line = answer.split("\n", 1)[0]
    sentence = " ".join(f"{rewriting.begin(task.entry_point)} {line.strip()}".split())
    if end := _SENTENCE_END.search(sentence):
        sentence = sentence[: end.end()]
    sentence = sentence.rstrip("\"'* ").rstrip(":,") if sentence.count('"') % 2 else sentence.rstrip("* ").rstrip(":,")
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."


def objection(rewriting: Rewriting, task: Task, original: str, sentence: str, finished: bool = True) -> str:
    """Why `sentence` may not take the place of `original`; ``""`` if it may.

    Args:
        rewriting: The kind of rewrite.
        task: The task.
        original: The prose segment that would be replaced.
        sentence: What `cleaned` made of the rewriter's answer.
        finished: Whether the answer ended by itself rather than at the token limit.
    """
    opening = rewriting.begin(task.entry_point)
    rest = sentence.removeprefix(opening).strip(" .")
    if not finished:
        return "cut off"
    if len(rest.split()) < 2:
        return "empty"
    if len(sentence.split()) > min(_MAX_WORDS, 20 + _MAX_GROWTH * len(original.split())):
        return "too long"
    if rewriting.names_function and task.entry_point not in sentence:
        return "does not name the function"
    if _CODE.search(rest) and not _CODE.search(original):
        return "contains code"
    if " ".join(sentence.lower().split()) == " ".join(original.lower().split()):
        return "identical"
    if lost := _facts(task, original) - _facts(task, sentence):
        return f"loses {min(lost)}"
    if added := _numbers(rest) - _numbers(original):
        return f"adds {min(added)}"
    return ""


def main_segment(state: PromptState) -> int:
    """Index of the prose segment that holds the description: the longest.

    Raises:
        ValueError: The prompt has no prose.
    """
    if not state.prose:
        raise ValueError("the prompt has no prose to rewrite")
    return max(range(len(state.prose)), key=lambda i: len(state.prose[i]))


def _shown_task(prompt: str) -> str:
    """The task for a reader: without the quotes around an MBPP docstring."""
    segments = split(prompt)
    bare = "".join(s.text for s in segments).strip()
    return bare.strip('"').strip() if bare.startswith('"""') else bare


def _facts(task: Task, prose: str) -> Counter[str]:
    """Numbers, quoted text and identifiers in prose; the vocabulary of the trade may be reworded."""
    names = protected_names(task.prompt, task.entry_point)
    facts = [t for t in protected_tokens(prose, names) if t in names or t.lower() not in RESERVED]
    return Counter({f.strip("`'\"‘’“”.,()"): 1 for f in facts if f not in (task.entry_point, "a")})


def _numbers(prose: str) -> Counter[str]:
    return Counter({n: 1 for n in re.findall(r"\d+(?:\.\d+)?", prose)})
