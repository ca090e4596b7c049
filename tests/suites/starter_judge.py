"""Judge programs with EvalPlus alone: run by `test_starter.py` as a script in a fresh process.

A fresh process, since EvalPlus reads ``MBPP_OVERRIDE_PATH`` at import, and since its memory limit counts what
the parent process has mapped. Reads ``{task_id: {label: program}}`` from standard input; writes the tasks as
EvalPlus loaded them and ``{task_id: {label: [base status, plus status]}}`` to standard output.
"""

import json
import sys

from evalplus.data import get_mbpp_plus
from evalplus.evaluate import check_correctness
from evalplus.gen.util import trusted_exec


def main() -> None:
    problems = get_mbpp_plus()
    verdicts: dict[str, dict[str, list[str]]] = {}
    for task_id, programs in json.load(sys.stdin).items():
        problem = problems[task_id]
        expected = {}
        for kind in ("base", "plus"):
            reference = problem["prompt"] + problem["canonical_solution"]
            expected[kind], expected[f"{kind}_time"] = trusted_exec(
                reference, problem[f"{kind}_input"], problem["entry_point"], record_time=True
            )
        verdicts[task_id] = {}
        for label, program in programs.items():
            result = check_correctness("mbpp", 0, problem, program, expected, fast_check=True)
            verdicts[task_id][label] = [result["base"][0], result["plus"][0]]
    json.dump({"problems": problems, "verdicts": verdicts}, sys.stdout)


if __name__ == "__main__":
    main()
