"""A worker of the judge: the process that holds expected outputs and compares.

Started by `judge.IsolatedJudge` as a fresh interpreter without torch (see `launch`). It itself runs no foreign
code, but has a zygote do so, which was split off before it knew any expected output.

From the judge, pickled: ``("group", key, CallSpec | AssertGroup | PairGroup | ProbeGroup)`` once a group,
then ``("check", number, program, keys, fail_fast, stop_early, stop_hung, give_up_after)``, answered by the JSON
``[number, [[status, passed, total, failure, detail] or null, …]]``, or ``("execute", number, program, key)``, answered
by ``[number, [outcome, …]]``. First of all it sends ``["ready", layers]``.
"""

from __future__ import annotations

import json
import pickle
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from promptrl_plugin.checking.base import ends_with, hung
from promptrl_plugin.checking.compare import set_oracle
from promptrl_plugin.checking.deciding import AssertTests, CallTests, Tests
from promptrl_plugin.checking.expected import BrokenReferenceError, CallSpec, Expected, ExpectedStore
from promptrl_plugin.checking.grading import GroupGrader
from promptrl_plugin.checking.launch import WorkerSettings
from promptrl_plugin.checking.original import original_verdict
from promptrl_plugin.checking.outcomes import ProbeTests
from promptrl_plugin.checking.pairs import PAIR_SECONDS, PairPlan, PairTests
from promptrl_plugin.checking.probes import ProbeGroup, probe_inputs
from promptrl_plugin.checking.programs import plan_assert
from promptrl_plugin.checking.runner import Job, Part
from promptrl_plugin.checking.zygote_client import Ends, ZygoteClient, never
from promptrl_plugin.records import AssertGroup, GroupVerdict, PairGroup, Status

__all__ = ["Worker"]

TestSpec = CallSpec | AssertGroup | PairGroup
#: Makes a group's part of a job and what decides it, given a factor for the time limits and fail-fast.
Plan = Callable[[float, bool], tuple[Part, Tests]]

_EVALPLUS_MAX_SECONDS = 60  # of a whole group (EVALPLUS_TIMEOUT_PER_TASK's default)
_PROBES_SECONDS = 10.0  # of all generated inputs together; what comes later counts as timed out
_PROBE_BYTES, _PROBES_BYTES = 1 << 20, 1 << 23  # of one output, of all
_NEAR = 0.5  # share of its time limit from where on a test that passes might have run out of it
_BUSY, _ASLEEP = 1.25, 5.0  # seconds of life for each of CPU: from where on a processor is shared, and up to where
_PLANS = 64  # of pairs that are kept: some of APPS have megabytes
_MARGIN, _SET_MARGIN = 1 << 16, 1 << 22  # bytes of output always allowed; under the set oracle, with repetitions


class Worker:
    """Answers the judge's requests, one after another.

    Args:
        settings: See there.
        zygote: Socket to the zygote.
    """

    def __init__(self, settings: WorkerSettings, zygote: socket.socket) -> None:
        self._settings = settings
        self._zygote = ZygoteClient(zygote)
        self._expected = ExpectedStore(Path(settings.expected_folder) if settings.expected_folder else None)
        self._groups: dict[str, TestSpec | ProbeGroup] = {}
        self._pairs: dict[str, PairPlan] = {}
        self._probes: dict[str, list[Any]] = {}
        self._parts: dict[tuple[str, bool], Part] = {}  # by group and fail-fast, with plain limits

    def serve(self, connection: Connection) -> None:
        """Answer until the judge is gone.

        Raises:
            ZygoteDiedError: The worker cannot go on.
        """
        with suppress(EOFError, ConnectionError):
            self._serve(connection)

    def _serve(self, connection: Connection) -> None:
        connection.send_bytes(json.dumps(["ready", self._zygote.layers]).encode())
        while True:
            message = pickle.loads(connection.recv_bytes())
            if message[0] == "group":
                self._groups[message[1]] = message[2]
                continue
            kind, number, *asked = message
            answer = self._check(*asked) if kind == "check" else self._execute(*asked)
            connection.send_bytes(json.dumps([number, answer]).encode())

    def _check(
        self, program: str, keys: list[str], fail_fast: bool, stop_early: bool, stop_hung: bool, give_up_after: int
    ) -> list[Any]:
        ends = partial(ends_with, stop_early=stop_early, stop_hung=stop_hung)
        groups = [self._groups[key] for key in keys]
        answers: list[Any] = []
        while len(answers) < len(keys):
            for verdict in self._first_verdicts(program, groups[len(answers) :], fail_fast, ends, give_up_after):
                passed = "".join("01"[p] for p in verdict.passed)
                answers.append([verdict.status, passed, verdict.total, verdict.failure, verdict.detail])
                if ends(verdict):
                    return answers + [None] * (len(keys) - len(answers))
        return answers

    def _first_verdicts(
        self,
        program: str,
        groups: Sequence[TestSpec | ProbeGroup],
        fail_fast: bool,
        ends: Ends,
        give_up_after: int,
    ) -> list[GroupVerdict]:
        """Verdicts on as many of the groups as one child could run, at least on the first."""
        plans: list[Plan] = []
        try:
            for group in groups:
                if isinstance(group, CallSpec) and self._settings.verdicts == "evalplus":
                    if plans:
                        break
                    return [self._original(program, group, fail_fast)]
                plans.append(self._plan(group, program))
            verdicts, nearest = self._run(program, plans, 1.0, fail_fast, ends, give_up_after)
        except BrokenReferenceError as e:
            if len(groups) > 1:  # of which group?
                return self._first_verdicts(program, groups[:1], fail_fast, ends, give_up_after)
            assert isinstance(groups[0], CallSpec)
            return [GroupVerdict(Status.ERROR, (), groups[0].count, None, str(e))]
        stretch = self._zygote.stretch
        return [
            self._steady(
                program, plan, self._with_patience(program, plan, verdict, stretch), near, fail_fast, give_up_after
            )
            for plan, verdict, near in zip(plans, verdicts, nearest, strict=False)
        ]

    def _run(
        self,
        program: str,
        plans: Sequence[Plan],
        stretch: float,
        fail_fast: bool,
        ends: Ends = never,
        give_up_after: int = 0,
    ) -> tuple[list[GroupVerdict], list[float]]:
        """Verdicts on as many parts as one child could run, and of every part how near a test came to its limit."""
        parts, tests = zip(*(plan(stretch, fail_fast) for plan in plans), strict=True)
        graders = [GroupGrader(t, fail_fast, give_up_after) for t in tests]
        verdicts = self._zygote.run(Job(program, parts, fail_fast), graders, ends)
        return verdicts, [g.nearest for g in graders]

    def _steady(
        self, program: str, plan: Plan, first: GroupVerdict, near: float, fail_fast: bool, give_up_after: int
    ) -> GroupVerdict:
        """The verdict of two judgings in three, where one hangs on the clock.

        That is where a test ran out of time, or where all passed and one took more than half of its time (`near`).
        What two judgings say is not asked a third time.
        """
        passes = first.status is Status.PASS
        if not hung(first) and not (passes and near > _NEAR):
            return first
        second = self._judged_again(program, plan, fail_fast=True)
        if (second.status is Status.PASS) == passes:
            return first
        third = self._judged_again(program, plan, fail_fast=fail_fast, give_up_after=give_up_after)
        return first if (third.status is Status.PASS) == passes else third

    def _judged_again(self, program: str, plan: Plan, *, fail_fast: bool, give_up_after: int = 0) -> GroupVerdict:
        (verdict,), _ = self._run(program, [plan], 1.0, fail_fast, give_up_after=give_up_after)
        return self._with_patience(program, plan, verdict, self._zygote.stretch)

    def _with_patience(self, program: str, plan: Plan, verdict: GroupVerdict, stretch: float) -> GroupVerdict:
        """A verdict that does not depend on what else the machine does.

        Limits are those of a free machine. Where a program met one while it had to share the processor (it lived
        longer than it computed, though not as one that sleeps), it may show that it passes with its limits
        stretched by as much. That counts where all of its calls together computed for no longer than one of them
        may take: then none was slow, and none used the stretched limit to outlast its own.
        """
        if hung(verdict) and _BUSY <= stretch <= _ASLEEP:
            (again,), _ = self._run(program, [plan], stretch, fail_fast=True)
            quick = self._zygote.computed <= min(plan(1.0, True)[0].limits, default=0.0)
            return again if quick and again.status is Status.PASS else verdict
        return verdict

    def _original(self, program: str, spec: CallSpec, fail_fast: bool) -> GroupVerdict:
        s = self._settings
        return original_verdict(spec, program, fail_fast, s.min_time_limit, s.gt_time_limit_factor, s.memory_bytes)

    def _plan(self, group: TestSpec | ProbeGroup, program: str) -> Plan:
        assert not isinstance(group, ProbeGroup)
        if isinstance(group, PairGroup):
            return self._plan_pairs(group, program)
        return self._plan_calls(group) if isinstance(group, CallSpec) else self._plan_asserts(group)

    def _plan_calls(self, spec: CallSpec) -> Plan:
        expected = self._expected.get(spec)

        def plan(stretch: float, fail_fast: bool) -> tuple[Part, Tests]:
            part = self._parts.get((spec.key, fail_fast)) if stretch == 1.0 else None
            if part is None:
                part = self._part(spec, expected, stretch, fail_fast)
            if stretch == 1.0:
                self._parts[spec.key, fail_fast] = part
            return part, CallTests(spec, expected, part.limits)

        return plan

    def _part(self, spec: CallSpec, expected: Expected, stretch: float, fail_fast: bool) -> Part:
        s = self._settings
        limits = [stretch * max(s.min_time_limit, s.gt_time_limit_factor * t) for t in expected.seconds]
        iterate = set_oracle(spec.dataset, spec.entry_point)
        margin = _SET_MARGIN if iterate else _MARGIN
        value_limit = _round_up(margin + 4 * max(expected.sizes, default=0))
        output_limit = value_limit + 8 * sum(expected.sizes) + _MARGIN * len(limits)
        return Part(
            entry_point=spec.entry_point,
            calls=spec.inputs,
            limits=limits,
            total_limit=_total_limit(limits, fail_fast, stretch),
            value_limit=value_limit,
            output_limit=_round_up(output_limit),
            iterate=iterate,
        )

    def _plan_asserts(self, group: AssertGroup) -> Plan:
        plans = [plan_assert(a) for a in group.asserts]
        units = [p.leaves if p.leaves is not None else p.source for p in plans]

        def plan(stretch: float, fail_fast: bool) -> tuple[Part, Tests]:
            limits = [stretch * self._settings.min_time_limit] * len(plans)
            part = Part(
                entry_point="",
                calls=pickle.dumps(units),
                limits=limits,
                total_limit=_total_limit(limits, fail_fast, stretch),
                value_limit=_SET_MARGIN,
                output_limit=4 * _SET_MARGIN,
                setup=group.setup,
            )
            return part, AssertTests(plans, limits)

        return plan

    def _plan_pairs(self, group: PairGroup, program: str) -> Plan:
        pairs = self._pairs.get(group.key)
        if pairs is None:
            if len(self._pairs) == _PLANS:
                del self._pairs[next(iter(self._pairs))]
            pairs = self._pairs[group.key] = PairPlan(group)

        def plan(stretch: float, fail_fast: bool) -> tuple[Part, Tests]:
            limits = [stretch * PAIR_SECONDS] * group.count
            return pairs.part(program, limits, _total_limit(limits, fail_fast, stretch)), PairTests(pairs, limits)

        return plan

    def _execute(self, program: str, key: str) -> list[str]:
        """Outcomes of the generated inputs, which are made once a group."""
        group = self._groups[key]
        assert isinstance(group, ProbeGroup)
        inputs = self._probes.get(key)
        if inputs is None:
            inputs = self._probes[key] = probe_inputs(group)
        limits = [self._settings.min_time_limit] * len(inputs)
        tests = ProbeTests(program, limits, group.view)
        part = Part(
            entry_point=group.entry_point,
            calls=pickle.dumps(inputs),
            limits=limits,
            total_limit=_PROBES_SECONDS,
            value_limit=_PROBE_BYTES,
            output_limit=_PROBES_BYTES,
            iterate=bool(group.view),
        )
        (verdict,) = self._zygote.run(Job(program, (part,)), [GroupGrader(tests, fail_fast=False)])
        return list(tests.all_outcomes(verdict))


def _total_limit(limits: list[float], fail_fast: bool, stretch: float) -> float:
    """How long EvalPlus waits for a group (`untrusted_check`): its timeout, and a second of its join; stretched."""
    return min(stretch * _EVALPLUS_MAX_SECONDS, sum(limits)) + stretch * ((1 if fail_fast else 2) + 1)


def _round_up(size: int) -> int:
    # To a power of two: the child should not learn the size of what is expected.
    return 1 << (size - 1).bit_length()
