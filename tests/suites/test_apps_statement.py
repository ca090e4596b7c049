"""The examples of APPS's statements."""

from __future__ import annotations

import pytest
from apps_rows import DOUBLE, DOUBLE_STARTER, SUM

from promptrl_plugin.suites.apps_statement import example_lines, heading, visible_pairs

ATCODER = """\
Add the numbers.
-----Sample Input-----
2
1 2

-----Sample Output-----
3

The figure below shows how they are added up.
"""
KATTIS = """\
Add the numbers.

-----Sample Input 1-----
1 2
-----Sample Output 1-----
3

-----Sample Input 2-----
4 5
-----Sample Output 2-----
9
"""
CODECHEF = """\
Add the numbers.
-----Example Input-----
1

2
-----Example Output-----
3

4
-----Explanation-----
Example case 1: it is plain.
"""
MARKED = """\
Add the numbers.

**SAMPLE INPUT**
```
1 2
```
**SAMPLE OUTPUT**
```
3
```
"""


def test_examples_under_one_heading() -> None:
    group = visible_pairs(SUM, "", "")
    assert group.inputs == ("1 2\n", "10 -4\n")
    assert group.outputs == ("3\n", "6\n")
    lines = SUM.splitlines()
    assert {lines[i] for i in example_lines(lines)} == {"1 2", "3", "10 -4", "6", ""}


@pytest.mark.parametrize(
    ("statement", "inputs", "outputs"),
    [
        (ATCODER, ("2\n1 2\n",), ("3\n",)),
        (KATTIS, ("1 2\n", "4 5\n"), ("3\n", "9\n")),
        (CODECHEF, ("1\n\n2\n",), ("3\n\n4\n",)),
        (MARKED, ("1 2\n",), ("3\n",)),
        ("-----Example-----\nInput:\n1\n\nOutput:\nYES\nNO\n\nExplanation\n\nIt is so.\n", ("1\n",), ("YES\nNO\n",)),
        (
            "-----Sample-----\nInput\n1\nOutput\nAlice wins this game\n\nNote\nNo.",
            ("1\n",),
            ("Alice wins this game\n",),
        ),
        ("Read the input and print the output.\nInput\nwhat\nOutput\nthat\n", (), ()),
        ("-----Example-----\nInput\n1\n\nInput\n2\n\nOutput\n3\n", ("2\n",), ("3\n",)),
        ("-----Examples-----\nInput\n1\nOutput\n2\nInput\n1\nOutput\n3\n", (), ()),  # one input, two outputs
        ("-----Example-----\nInput\n\nOutput\n2\n", (), ()),
    ],
)
def test_forms_of_statements(statement: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
    group = visible_pairs(statement, "", "")
    assert (group.inputs, group.outputs) == (inputs, outputs)


def test_headings() -> None:
    assert heading("-----Sample Input 1-----") == "sample input 1"
    assert heading("**Example 2:**") == "example 2"
    assert heading("Explanation: it is so") == "explanation: it is so"
    assert heading("The input is a number.") is None
    assert heading("-" * 20_000 + "x") is None  # at once


def test_examples_of_a_method_by_its_signature() -> None:
    group = visible_pairs(DOUBLE, "double", DOUBLE_STARTER)
    assert group.inputs == ("[[1, 2]]", "[[]]")
    assert group.outputs == ("[[2, 4]]", "[[]]")
    assert group.asserts == ("assert double([1, 2]) == [2, 4]", "assert double([]) == []")


@pytest.mark.parametrize(
    ("statement", "starter", "inputs", "outputs"),
    [
        ("double(3) => 6\ndouble(-1) == -2", "def double(n):\n\t", ("[3]", "[-1]"), ("[6]", "[-2]")),
        ('double("ab") returns "abab".', "def double(s):\n\t", ('["ab"]',), ('["abab"]',)),
        ("Input: a = 1, b = true\nOutput: null", "def double(a, b):\n\t", ("[1, true]",), ("[null]",)),
        ("double({1, 2}) == 3\ndouble({1: 2}) == 4", "def double(n):\n\t", (), ()),  # JSON has neither
        ("double(3) => 6", "", ("[3]",), ("[6]",)),
        ("double(3) == 6\ndouble(3) == 7\ndouble(3) == 6", "def double(n):\n\t", (), ()),
        ("Nothing to see.", "def double(n):\n\t", (), ()),
    ],
)
def test_example_calls(statement: str, starter: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
    group = visible_pairs(statement, "double", starter)
    assert (group.inputs, group.outputs) == (inputs, outputs)
