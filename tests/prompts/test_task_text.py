import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_samples import HUMANEVAL_PROMPT, MBPP_PROMPT, humaneval_task, mbpp_task

from promptrl_plugin.prompts.task_text import fill, join, prose_of, protected_names, replace_prose, split
from promptrl_plugin.prompts.tokens import TokenKind, protected_tokens, tokenize

LINES = st.lists(
    st.sampled_from(
        ['"""', "'''", "    ", "", "Write a function. It works.", "assert f(1) == 2", ">>> f(1)", "2",
         "- one thing to do",
         "    def f(x):", "f(3) => 4", "For example:", "say `x` and 'y z' or 3.5", "\t", "import re"]
    )
)  # fmt: skip


@given(LINES.map("\n".join) | st.text())
def test_splitting_loses_nothing(prompt: str) -> None:
    assert join(split(prompt)) == prompt
    assert replace_prose(prompt, prose_of(prompt)) == prompt
    assert "".join(t.text for t in tokenize(prompt)) == prompt


@given(LINES.map("\n".join), st.lists(st.text("ab c", min_size=1), min_size=1, max_size=2))
def test_notes_only_add_lines(prompt: str, notes: list[str]) -> None:
    noted = replace_prose(prompt, prose_of(prompt), notes)
    for note in notes:
        assert note in noted
    rest = iter(noted)
    assert all(c in rest for c in prompt.replace(" ", "").replace("\t", ""))  # a subsequence: nothing went


def test_splitting_every_prompt(all_tasks) -> None:
    for task in all_tasks:
        segments = split(task.prompt)
        assert join(segments) == task.prompt
        protected = "".join(s.text for s in segments if not s.prose)
        for line in task.prompt.splitlines():
            if line.strip().startswith(("assert", ">>>", "def ", "from ", "import ")):
                assert line.strip() in protected, task.id


def test_real_prompts_have_prose(benchmark_tasks) -> None:
    assert [t.id for t in benchmark_tasks if not prose_of(t.prompt)] == []
    many = [t.id for t in benchmark_tasks if t.dialect == "mbpp" and len(prose_of(t.prompt)) != 1]
    assert len(many) <= 3  # a few MBPP texts go over several lines


def test_mbpp_description_is_prose_and_its_assert_is_not() -> None:
    assert prose_of(MBPP_PROMPT) == ("Write a function to find the shared elements from the given two lists.",)


def test_humaneval_helpers_headings_and_doctests_are_not_prose() -> None:
    (prose,) = prose_of(HUMANEVAL_PROMPT)
    assert prose.startswith("Check whether any two")
    assert prose.endswith("Ignore values above 100.")


def test_notes_stand_before_the_tests() -> None:
    noted = replace_prose(MBPP_PROMPT, prose_of(MBPP_PROMPT), ["First.", "Second."])
    assert noted.splitlines()[2:5] == ["First.", "Second.", "assert common((3, 4), (4, 5)) == (4,)"]
    noted = replace_prose(HUMANEVAL_PROMPT, prose_of(HUMANEVAL_PROMPT), ["Mind the gap."])
    ast.parse(noted)
    before, after = noted.split("    Mind the gap.\n")
    assert before.endswith("Ignore values above 100.\n")
    assert after.lstrip().startswith("For example:")
    assert before + after == HUMANEVAL_PROMPT


def test_wrong_number_of_texts_is_refused() -> None:
    with pytest.raises(ValueError, match="2 texts for 1 prose segments"):
        replace_prose(MBPP_PROMPT, ["a", "b"])


def test_fill_keeps_the_layout() -> None:
    assert fill("one line", "another text") == "another text"
    filled = fill("a line of text\n    wrapped here", "some words that need more than one line")
    assert filled == "some words that\n    need more than\n    one line"


@pytest.mark.parametrize(
    ("prose", "protected"),
    [
        ("Find the n'th value of 'a b' in the table", ("n'th", "value", "'a b'")),
        ("greater than 0) or x_1 plus fooBar", ("0)", "x_1", "fooBar")),
        ("a dog's age isn't `len(x)`.", ("`len(x)`",)),
        ("matches an a followed by words 'b'.", ("a", "words", "'b'")),
        ("two ints a and b, called f(x) = max(x, 2)", ("two", "a", "b", "f(x)", "=", "max(x", "2)")),
        ("replace blanks with '%20' quickly", ("'%20'",)),
        ('between marks " " of it', ('" "',)),
        ("use list `numbers' here", ("list", "`numbers'")),
        ("sum [a_1,...,a_n], then stop", ("sum", "[a_1,...,a_n]")),
    ],
)
def test_protected_tokens(prose: str, protected: tuple[str, ...]) -> None:
    assert protected_tokens(prose) == protected


def test_articles_are_words_and_names_are_not() -> None:
    tokens = {t.text: t.kind for t in tokenize("Take a shared thing of limit", frozenset({"limit"}))}
    assert tokens["a"] is TokenKind.WORD
    assert tokens["shared"] is TokenKind.WORD
    assert tokens["limit"] is TokenKind.PROTECTED


def test_names_of_a_prompt() -> None:
    assert {"spread", "numbers", "limit", "helper", "x", "List"} <= protected_names(humaneval_task().prompt, "spread")
    assert "common" in protected_names(mbpp_task().prompt, "common")
