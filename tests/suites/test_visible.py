"""Visible tests: what is extracted from a prompt, and above all what is not."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptrl_plugin.suites.evalplus import EvalPlusSuite
from promptrl_plugin.suites.visible import called_names, examples, visible_tests


def mbpp(body: str) -> str:
    return f'"""\n{body}\n"""\n'


def humaneval(docstring: str, signature: str = "def f(x)") -> str:
    return f'{signature}:\n    """ Do it.\n{docstring}\n    """\n'


@pytest.mark.parametrize(
    "statement",
    [
        "assert f((3, 4),(5, 7)) == (4, 5)",
        "assert set(f([1, 2])) == set([2, 1])",
        "assert not f(10)",
        "assert (f([1])) == [1]",
        "assert f(\n    [1, 2],\n    3,\n) == 6",
    ],
)
def test_mbpp_assert_is_taken_verbatim(statement: str) -> None:
    assert visible_tests(mbpp(f"Write a function.\n{statement}"), "f", "mbpp").asserts == (statement,)


def test_mbpp_asserts_come_in_order_and_with_their_imports() -> None:
    body = "Write it.\nassert math.isclose(f(10), 4.5, rel_tol=0.001)\nassert f(sys.maxsize) == 1"
    group = visible_tests(mbpp(body), "f", "mbpp")
    assert group.asserts == tuple(body.splitlines()[1:])
    assert group.setup == "import math\nimport sys"


@pytest.mark.parametrize(
    "body",
    [
        "assert yourself, and write a function f(x).",  # prose
        "assert f(1 == 2",  # does not parse
        "assert g(1) == 2",  # of another function
        "Write a function that asserts f(1) == 2",  # no statement
    ],
)
def test_mbpp_drops_what_is_no_test_of_the_entry_point(body: str) -> None:
    assert visible_tests(mbpp(body), "f", "mbpp").asserts == ()


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("    >>> f(1)\n    2", ["assert f(1) == 2"]),
        ("    >>> f([1,\t2])  # a remark\n    [2,\n     1]", ["assert f([1, 2]) == [2, 1]"]),
        ("    >>> round(f(1), 2)\n    -0.5", ["assert round(f(1), 2) == -0.5"]),
        ("    >>> f([3]) == [1, 2]", ["assert f([3]) == [1, 2]"]),
        ("    f(1) == True", ["assert f(1) == True"]),
        ("    f(1)==>True", ["assert f(1) == True"]),
        ("    f(1) => true", ["assert f(1) == True"]),
        ("    f('a b') ➞ ['a', 'b']", ["assert f('a b') == ['a', 'b']"]),
        ("    f(1) -> [0, 3]", ["assert f(1) == [0, 3]"]),
        ("    f(1) # => 'No' (it must not be one)", ["assert f(1) == 'No'"]),
        ("    f(15)   # returns \"db\"", ["assert f(15) == 'db'"]),
        ("    f(1) returns 4.", ["assert f(1) == 4"]),
        ("    f(1) should return 6.5.", ["assert f(1) == 6.5"]),
        ("    * f([]) => []", ["assert f([]) == []"]),
        ("    f([\n      [1, 2],\n      [3]\n    ]) == [(0, 0),\n      (1, 1)]",
         ["assert f([[1, 2], [3]]) == [(0, 0), (1, 1)]"]),
        ("    f(1) = 3\n    f(2) = 4", ["assert f(1) == 3", "assert f(2) == 4"]),
        ("    f(')') ➞ 1", ["assert f(')') == 1"]),
        ("    Input: [1, 2]\n    Output: 3", ["assert f([1, 2]) == 3"]),
        ("    Input: x = [1, 2]\n    Output: 3 # a sum", ["assert f([1, 2]) == 3"]),
        ("    For x = [1, 2] the output should be 3", ["assert f([1, 2]) == 3"]),
        ("    f(1) == None", ["assert f(1) is None"]),
        ("    f(1) == 2\n    f(1) == 2", ["assert f(1) == 2"]),
    ],
)  # fmt: skip
def test_humaneval_forms(docstring: str, expected: list[str]) -> None:
    assert examples(humaneval(docstring), "f") == expected


@pytest.mark.parametrize(
    "docstring",
    [
        "    f(abc) => False",  # an unquoted argument
        "    f(1) -> 19 - 5 = 14",  # a calculation
        "    f(1) ==> ('a')",  # a tuple or a string?
        "    f(n) = n / 2\n    f(1) = 3",  # a recurrence
        "    f(1) == 2\n    f(1) == 3",  # contradicts itself
        "    >>> f(1)",  # prints nothing, and nothing says that None is right
        "    >>> g(1)\n    2",
        "    >>> f(data)\n    2",
        "    self.f(1) == 2",
        "    call f(1) and wait for what it returns",
        "    Input: y = 3\n    Output: 3",  # not the parameter's name
        "    Input: 1, 2\n    Output: 3",  # not the number of parameters
    ],
)
def test_humaneval_drops_what_takes_guessing(docstring: str) -> None:
    assert examples(humaneval(docstring), "f") == []


def test_empty_doctest_output_means_none_where_the_annotation_allows_it() -> None:
    prompt = humaneval("    >>> f([])\n\n    >>> f([1])\n    1", "def f(x: list) -> Optional[int]")
    assert examples(prompt, "f") == ["assert f([]) is None", "assert f([1]) == 1"]


def test_escapes_in_an_example_belong_to_the_example() -> None:
    assert examples(humaneval(r"    >>> f('a\nb')" + "\n    2"), "f") == [r"assert f('a\nb') == 2"]


def test_only_the_entry_points_docstring_counts() -> None:
    helper = 'def helper(x):\n    """ Help.\n    f(1) == 9\n    """\n    return x\n\n\n'
    assert examples(helper + humaneval("    f(1) == 2"), "f") == ["assert f(1) == 2"]


def test_a_prompt_that_does_not_parse_shows_nothing() -> None:
    assert visible_tests("def f(x:\n  >>> f(1)\n  2", "f", "humaneval").asserts == ()


@given(st.lists(st.sampled_from(["f(", ")", ">>> ", " == ", " -> ", "'", "1", "[", "]", "\n    ", ",", "f(1)", "= "])))
def test_whatever_comes_out_parses_and_calls_the_entry_point(parts: list[str]) -> None:
    for source in examples(humaneval("    " + "".join(parts)), "f"):
        (statement,) = ast.parse(source).body
        assert isinstance(statement, ast.Assert)
        assert "f" in called_names(statement)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.parametrize(("name", "count"), [("mbpp", 378), ("humaneval", 20)])
def test_every_real_task_shows_tests_that_its_reference_passes(name: str, count: int, shared_data: Path) -> None:
    suite = EvalPlusSuite(name)
    hidden = suite.hidden()
    assert len(suite.tasks()) == count
    for task in suite.tasks():
        assert task.visible.asserts, f"{task.id} shows no test"
        for statement in task.visible.asserts:
            source = "\n".join([task.visible.setup, hidden[task.id].reference, statement])
            exec(source, {})  # an AssertionError names the task's own assert
