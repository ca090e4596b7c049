"""Judge programs with EvalPlus alone: run by `test_starter.py` as a script in a fresh process.

A fresh process, since EvalPlus reads ``MBPP_OVERRIDE_PATH`` at import, and since its memory limit counts what
the parent process has mapped. Reads ``{task_id: {label: program}}`` from standard input; writes the tasks as
EvalPlus loaded them and ``{task_id: {label: status on base and plus inputs}}`` to standard output.
"""

import json
import sys

from evalplus.data import get_mbpp_plus
from evalplus.eval import untrusted_check
from evalplus.gen.util import trusted_exec

#: Seconds per test, far above EvalPlus's own: a busy machine must not turn a verdict into a timeout.
TIME_LIMIT = 20


def main() -> None:
    problems = get_mbpp_plus()
    verdicts: dict[str, dict[str, str]] = {}
    for task_id, programs in json.load(sys.stdin).items():
        problem = problems[task_id]
        inputs, entry_point = problem["base_input"] + problem["plus_input"], problem["entry_point"]
        reference = problem["prompt"] + problem["canonical_solution"]
        expected, seconds = trusted_exec(reference, inputs, entry_point, record_time=True)
        verdicts[task_id] = {
            label: untrusted_check(
                "mbpp",
                program,
                inputs,
                entry_point,
                expected,
                problem["atol"],
                seconds,
                fast_check=True,
                min_time_limit=TIME_LIMIT,
            )[0]
            for label, program in programs.items()
        }
    json.dump({"problems": problems, "verdicts": verdicts}, sys.stdout)


if __name__ == "__main__":
    main()
