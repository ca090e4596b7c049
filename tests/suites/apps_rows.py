"""APPS tasks in the hub's form and in APPS's own folders, made up for tests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SUM = """\
You are given two integers $a$ and $b$ ($1 \\le a, b \\le 10^9$). Find the sum of these two integers.


-----Input-----

The only line contains two integers $a$ and $b$.


-----Output-----

Print the sum of the given integers.


-----Examples-----
Input
1 2

Output
3

Input
10 -4

Output
6



-----Note-----

In the first example the answer is one plus two.
"""
DOUBLE = """\
Given an array nums, return the array with every element doubled.

Example 1:
Input: nums = [1,2]
Output: [2,4]
Explanation: Each of the elements is doubled.

Example 2:
Input: nums = []
Output: []
"""
SUM_PROGRAM = "print(sum(map(int, input().split())))"
DOUBLE_PROGRAM = (
    "class Solution:\n    def double(self, nums: List[int]) -> List[int]:\n        return [2 * n for n in nums]"
)
DOUBLE_STARTER = "class Solution:\n    def double(self, nums: List[int]) -> List[int]:\n        "


def sum_row(number: int, difficulty: str = "interview", **fields: Any) -> dict[str, Any]:
    """A task for a script."""
    tests = {"inputs": ["1 2\n", "10 -4\n", "5 5\n"], "outputs": ["3\n", "6\n", "10\n"]}
    return {
        "problem_id": number,
        "question": SUM,
        "solutions": json.dumps([SUM_PROGRAM]),
        "input_output": json.dumps(tests),
        "difficulty": difficulty,
        "url": "",
        "starter_code": "",
        **fields,
    }


def double_row(number: int, difficulty: str = "introductory", **fields: Any) -> dict[str, Any]:
    """A task for a method."""
    tests = {"fn_name": "double", "inputs": [[[1, 2]], [[7]]], "outputs": [[2, 4], [[14]]]}
    given = {
        "question": DOUBLE,
        "solutions": json.dumps([DOUBLE_PROGRAM]),
        "input_output": json.dumps(tests),
        "starter_code": DOUBLE_STARTER,
    }
    return sum_row(number, difficulty, **{**given, **fields})


def write_folders(folder: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write tasks in APPS's own layout."""
    for row in rows:
        task = folder / f"{row['problem_id']:04d}"
        task.mkdir(parents=True)
        (task / "question.txt").write_text(row["question"])
        (task / "metadata.json").write_text(json.dumps({"difficulty": row["difficulty"], "url": row["url"]}))
        for name, field in (("input_output.json", "input_output"), ("solutions.json", "solutions")):
            if row[field]:
                (task / name).write_text(row[field])
        if row["starter_code"]:
            (task / "starter_code.py").write_text(row["starter_code"])
    return folder
