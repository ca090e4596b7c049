"""What train tasks reward: hidden tests, and the reference's outputs on generated inputs."""

from __future__ import annotations

import dataclasses

from doubles import ExecJudge, train_task

from promptrl_plugin.env.grader import TrainGrader
from promptrl_plugin.env.reward import all_pass, pass_fraction
from promptrl_plugin.records import Status
from promptrl_plugin.suites.hidden import CallGroup, HiddenTests, TrainTask

TASK = train_task(3)
RIGHT = "def f3(n):\n    return 3 + n\n"
KNOWS_THE_TESTS = "def f3(n):\n    return {1: 4, 5: 8}.get(n, 0)\n"
WRONG = "def f3(n):\n    return 4\n"


def test_hidden_tests_alone_are_the_default():
    ((verdict,),) = TrainGrader(ExecJudge()).grade([(TASK, KNOWS_THE_TESTS)])
    assert verdict.status is Status.PASS


def test_generated_tests_tell_the_right_program_from_one_that_knows_the_tests():
    right, knowing = TrainGrader(ExecJudge(), generated=True).grade([(TASK, RIGHT), (TASK, KNOWS_THE_TESTS)])
    assert all_pass(right)
    assert knowing[0].status is Status.PASS
    assert knowing[1].status is Status.FAIL
    assert right[1].total == knowing[1].total > 10
    assert sum(knowing[1].passed) < knowing[1].total / 2


def test_what_fails_a_hidden_test_is_not_run_on_generated_inputs():
    judge = ExecJudge()
    ((base, generated),) = TrainGrader(judge, generated=True).grade([(TASK, WRONG)])
    assert (base.passed, generated.passed) == ((True, False), ())
    assert pass_fraction((base, generated)) == 1 / (2 + generated.total)
    assert all("return 4" not in program for program in judge.executed)


def test_inputs_on_which_the_reference_raises_are_no_tests():
    def with_reference(source: str) -> TrainTask:
        return dataclasses.replace(TASK, hidden=dataclasses.replace(TASK.hidden, reference=source))

    picky = with_reference("def f3(x):\n    assert x % 2\n    return x + 3\n")
    ((_, some),) = TrainGrader(ExecJudge(), generated=True).grade([(picky, RIGHT)])
    ((_, every),) = TrainGrader(ExecJudge(), generated=True).grade([(TASK, RIGHT)])
    assert 0 < some.total < every.total
    assert some.status is Status.PASS
    broken = with_reference("def f3(x):\n    raise ValueError\n")
    ((only,),) = TrainGrader(ExecJudge(), generated=True).grade([(broken, RIGHT)])
    assert only.status is Status.PASS


def test_the_reference_runs_once_and_plus_tests_need_no_others():
    judge = ExecJudge()
    grader = TrainGrader(judge, generated=True)
    for _ in range(2):
        grader.grade([(TASK, RIGHT), (TASK, KNOWS_THE_TESTS)])
    assert sum(program.count("return x + 3") for program in judge.executed) == 1
    plus = CallGroup("mbpp", "T", "f3", TASK.hidden.reference, ([7],), 0.0, "plus")
    graded_by_plus = TrainTask(TASK.task, HiddenTests(TASK.hidden.base, plus, TASK.hidden.reference))
    judge.executed.clear()
    judge._group = lambda program, group: TrainGrader(ExecJudge()).grade([(TASK, RIGHT)])[0][0]  # type: ignore[method-assign]
    assert len(grader.grade([(graded_by_plus, RIGHT)])[0]) == 2
    assert not judge.executed
