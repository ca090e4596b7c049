"""Suite `units`: four conversions of lengths, judged by asserts. Each task shows its first test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from promptrl_plugin.records import AssertGroup, Task, content_hash
from promptrl_plugin.suites.hidden import HiddenTests

#: Entry point, description, tests, and the expression of a right program.
_ROWS = (
    ("feet_to_inches", "turn feet into inches", ("(2) == 24", "(0) == 0", "(-1) == -12"), "x * 12"),
    ("metres_to_millimetres", "turn metres into millimetres", ("(3) == 3000", "(0) == 0", "(7) == 7000"), "x * 1000"),
    ("yards_to_feet", "give the feet in some yards", ("(2) == 6", "(-3) == -9", "(10) == 30"), "x * 3"),
    ("half_the_distance", "halve a whole distance, rounded down", ("(9) == 4", "(8) == 4", "(-1) == -1"), "x // 2"),
)


class UnitsSuite:
    """A `promptrl_plugin.suites.base.Suite`; its version changes with its content."""

    name = "units"
    version = content_hash(_ROWS)[:12]
    evalplus_dataset: str | None = None  # evalplus.evaluate has no such data set; `promptrl judge` scores it

    def tasks(self) -> Sequence[Task]:
        return [self._task(i, *row[:3]) for i, row in enumerate(_ROWS)]

    def hidden(self) -> Mapping[str, HiddenTests]:
        return {f"Units/{i}": self._hidden(name, tests, body) for i, (name, _, tests, body) in enumerate(_ROWS)}

    def _task(self, i: int, name: str, description: str, tests: Sequence[str]) -> Task:
        shown = f"assert {name}{tests[0]}"
        prompt = f'"""\nWrite a function to {description}.\n{shown}\n"""\n'
        return Task(f"Units/{i}", self.name, "mbpp", prompt, name, AssertGroup((shown,)))

    def _hidden(self, name: str, tests: Sequence[str], body: str) -> HiddenTests:
        asserts = AssertGroup(tuple(f"assert {name}{test}" for test in tests))
        return HiddenTests(base=asserts, plus=None, reference=f"def {name}(x):\n    return {body}\n")
