"""The example library: what gets in, what is shown, and what is never shown."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from prompt_samples import EXAMPLES, make_task, mbpp_task

from promptrl_plugin.prompts.examples import ExampleLibrary
from promptrl_plugin.records import AssertGroup, Task
from promptrl_plugin.suites.hidden import HiddenTests, TrainTask


def train_task(name: str, what: str, reference: str) -> TrainTask:
    task = make_task(f'"""\nWrite a function to {what}.\nassert {name}(2) == 4\n"""\n', name, "mbpp", f"Train/{name}")
    return TrainTask(task, HiddenTests(AssertGroup((f"assert {name}(21) == 42",)), None, reference))


def embed(texts: list[str]) -> np.ndarray:
    """A fixed random direction for each text."""
    seeds = [int(hashlib.sha256(t.encode()).hexdigest()[:8], 16) for t in texts]
    return np.stack([np.random.default_rng(s).normal(size=8) for s in seeds]).astype(np.float32)


def library(n: int = 20) -> ExampleLibrary:
    whats = [f"scale a thing by {i} and call it {chr(97 + i)}" for i in range(n)]
    tasks = [train_task(f"g{i}", whats[i], f"def g{i}(x):\n    return {i} * x") for i in range(n)]
    return ExampleLibrary.from_train_tasks(tasks, embed)


def test_examples_hold_no_hidden_test_and_no_docstring() -> None:
    task = train_task("g", "double", "")
    reference = f"{task.task.prompt}\r\nimport math\r\ndef g(x):\r\n\treturn 2 * x"
    hidden = HiddenTests(task.hidden.base, None, reference)
    (example,) = ExampleLibrary.from_train_tasks([TrainTask(task.task, hidden)], embed).examples
    assert example.program == "import math\ndef g(x):\n    return 2 * x"
    assert "42" not in example.prompt + example.program


def test_unusable_references_stay_out() -> None:
    tasks = [train_task("a", "x", "def other(x): return 1"), train_task("b", "x", "def b(:"), train_task("c", "x", "")]
    assert len(ExampleLibrary.from_train_tasks(tasks, embed)) == 0
    empty = ExampleLibrary.from_train_tasks([], embed)
    assert empty.fixed_sets(3, 2) == [(), ()]
    assert empty.nearest(np.ones(8, dtype=np.float32), 3) == ()


def test_fixed_examples_are_deterministic_short_and_exclude() -> None:
    shown, other = library().fixed_sets(2, 2)
    assert len({e.task_id for e in (*shown, *other)}) == 4
    assert library().fixed_sets(2, 2) == [shown, other]
    first = make_task(shown[0].prompt, "g", "mbpp")
    changed, same = library().fixed_sets(2, 2, exclude_hashes=frozenset({first.content_hash}))
    assert same == other, "a set that holds no excluded task stays as it is for every task"
    assert changed[1] == shown[1]
    assert changed[0] not in (*shown, *other)
    assert len(changed) == 2
    by_id, _ = library().fixed_sets(2, 2, exclude_ids=frozenset({shown[1].task_id}))
    assert shown[1] not in by_id
    assert [len(s) for s in library(2).fixed_sets(3, 2)] == [2, 0]


def test_long_examples_are_not_fixed_ones() -> None:
    tasks = [train_task(f"g{i}", f"do thing {i}", f"def g{i}(x):\n    return {i}") for i in range(6)]
    body = "\n".join(f"    x = x + {i}" for i in range(200))
    tasks.insert(0, train_task("long", "do it at length", f"def long(x):\n{body}\n    return x"))
    shown = ExampleLibrary.from_train_tasks(tasks, embed).fixed_sets(3, 1)
    assert len(shown[0]) == 3
    assert all(e.task_id != "Train/long" for e in shown[0])


def test_nearest_examples_stand_next_to_the_task() -> None:
    vectors = np.eye(4, dtype=np.float32)
    near = ExampleLibrary(EXAMPLES, vectors).nearest(np.array([0.1, 0.5, 0.3, 0.8], dtype=np.float32), 3)
    assert near == (EXAMPLES[2], EXAMPLES[1], EXAMPLES[3])


def test_near_duplicates_are_never_shown() -> None:
    vectors = np.eye(4, dtype=np.float32)
    vectors[1] = [0.99, 0.1, 0, 0]  # EXAMPLES[1] is almost EXAMPLES[0]
    shown = ExampleLibrary(EXAMPLES, vectors).nearest(np.array([0.8, 0, 0.6, 0.1], dtype=np.float32), 4)
    assert EXAMPLES[0] in shown
    assert EXAMPLES[1] not in shown
    assert EXAMPLES[2] not in ExampleLibrary(EXAMPLES, vectors).nearest(vectors[2], 4)


def test_duplicates_by_content() -> None:
    lib = ExampleLibrary(EXAMPLES, np.eye(4, dtype=np.float32))
    same_words = '"""\nWrite a python function to  Add ONE to a number.\nassert h(7) == 8\n"""\n'
    task = make_task(same_words, "h", "mbpp", "Test/1")
    near = lib.duplicates(task)
    assert task.content_hash in near
    assert EXAMPLES[1] not in lib.nearest(np.ones(4, dtype=np.float32), 4, exclude_hashes=near)
    assert EXAMPLES[3] in lib.nearest(np.ones(4, dtype=np.float32), 4, exclude_hashes=near)
    assert lib.duplicates(mbpp_task()) == {mbpp_task().content_hash}


def test_mismatched_embeddings_are_refused() -> None:
    with pytest.raises(ValueError, match="4 examples, but 3 embeddings"):
        ExampleLibrary(EXAMPLES, np.eye(3, 4, dtype=np.float32))


def test_styles_of_real_references(benchmark_tasks: list[Task]) -> None:
    """Nearly every short MBPP program can be shown as a HumanEval task, and runs as one."""
    import json

    from prompt_samples import SHARED

    from promptrl_plugin.prompts.example_style import in_style, plain_form
    from promptrl_plugin.prompts.source import parsed
    from promptrl_plugin.prompts.state import Example

    rows = [json.loads(line) for line in (SHARED / "data" / "mbpp.jsonl").read_text().splitlines()[:300]]
    converted = 0
    for row in rows:
        prompt = f'"""\n{row["text"]}\n{row["test_list"][0]}\n"""\n'
        program = row["code"].replace("\r\n", "\n").expandtabs(4).strip()
        example = Example(str(row["task_id"]), prompt, program)
        styled = in_style(example, "humaneval")
        assert in_style(example, "mbpp") is example
        converted += styled is not example
        assert parsed(plain_form(styled)) is not None
    assert converted > 0.6 * len(rows)
