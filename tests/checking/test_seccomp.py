"""The system-call filter, decided on paper: what the kernel would make of it, without the kernel."""

from __future__ import annotations

import errno

import pytest

from promptrl_plugin.checking import seccomp

ALLOW, KILL = 0x7FFF0000, 0x80000000
DENY, UNKNOWN = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
PID = seccomp._SELF  # what stands for the child's own id until it is known


def decide(machine: str, number: int, *args: int, arch: int | None = None) -> tuple[int, int]:
    """What the filter answers, and after how many instructions."""
    own_arch, column, _ = seccomp._ARCH[machine]
    words = {0: number, 4: own_arch if arch is None else arch}
    for i in range(6):
        value = args[i] if i < len(args) else 0
        words |= {16 + 8 * i: value & 0xFFFFFFFF, 20 + 8 * i: (value >> 32) & 0xFFFFFFFF}
    program, at, loaded, steps = seccomp._program(own_arch, column), 0, 0, 0
    while True:
        code, yes, no, operand = program[at]
        at, steps, operand = at + 1, steps + 1, operand & 0xFFFFFFFF
        assert 0 <= yes < 256 > no >= 0, "a jump takes one byte"
        if code == 0x20:
            loaded = words[operand]
        elif code == 0x54:
            loaded &= operand
        elif code == 0x06:
            return operand, steps
        else:
            holds = {0x15: loaded == operand, 0x25: loaded > operand, 0x35: loaded >= operand, 0x45: loaded & operand}
            at += yes if holds[code] else no


@pytest.mark.parametrize("machine", sorted(seccomp._ARCH))
def test_every_number_is_decided_by_the_table(machine: str) -> None:
    _, column, _ = seccomp._ARCH[machine]
    denied = {pair[column] for pair in seccomp._DENIED.values()} - {None}
    by_argument = seccomp._conditions(column).keys()
    assert not denied & by_argument
    for number in range(600):
        if number in by_argument:
            continue
        known = number <= seccomp._LAST_OLD[column] or number in seccomp._NEW_ALLOWED
        expected = DENY if number in denied else ALLOW if known else UNKNOWN
        answer, steps = decide(machine, number)
        assert answer == expected, number
        assert steps <= 24, "the kernel goes through it for every number, each time that it is installed"


@pytest.mark.parametrize("machine", sorted(seccomp._ARCH))
def test_some_depend_on_an_argument(machine: str) -> None:
    column = seccomp._ARCH[machine][1]

    def answer(pair: tuple[int, int], *args: int) -> int:
        return decide(machine, pair[column], *args)[0]

    for pair in (seccomp._KILL, seccomp._TGKILL):
        assert [answer(pair, PID), answer(pair, 1), answer(pair, 0)] == [ALLOW, DENY, DENY]
    for pair in (seccomp._PRLIMIT, seccomp._AFFINITY):
        assert [answer(pair, PID), answer(pair, 0), answer(pair, 1)] == [ALLOW, ALLOW, DENY]
    assert [answer(seccomp._CLONE, 0x10000), answer(seccomp._CLONE, 17)] == [ALLOW, DENY]
    assert [answer(seccomp._SOCKETPAIR, 1, 1 | 0x80000), answer(seccomp._SOCKETPAIR, 1, 2)] == [ALLOW, DENY]
    assert answer(seccomp._SOCKETPAIR, 2, 1) == DENY
    assert [answer(seccomp._SENDTO), answer(seccomp._SENDTO, 0, 0, 0, 0, 1 << 32)] == [ALLOW, DENY]
    assert [answer(seccomp._PRCTL, 1), answer(seccomp._PRCTL, 4)] == [DENY, ALLOW]
    assert [answer(seccomp._IOCTL, 0, 0x5412), answer(seccomp._IOCTL, 0, 0x5401)] == [DENY, ALLOW]


def test_other_machines_and_x32_are_refused() -> None:
    assert decide("x86_64", 1, arch=0x40000003)[0] == KILL
    assert decide("x86_64", 0x40000001)[0] == UNKNOWN
