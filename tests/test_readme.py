"""What the README promises about use, held against the package."""

from __future__ import annotations

import re
from pathlib import Path

from promptrl_plugin.harnesses.lm_eval import _OPTIONS, _variable

TOP = Path(__file__).resolve().parents[1]
README = (TOP / "README.md").read_text(encoding="utf-8")


def test_every_environment_variable_is_in_the_table() -> None:
    code = "".join(p.read_text(encoding="utf-8") for p in (TOP / "promptrl_plugin").rglob("*.py"))
    used = set(re.findall(r"PROMPTRL_[A-Z_]*[A-Z]", code)) | {_variable(k) for k in _OPTIONS}
    rows = "".join(line for line in README.splitlines() if line.startswith("| `PROMPTRL_"))
    listed = set(re.findall(r"`(PROMPTRL_[A-Z_]+)`", rows))
    assert used <= listed
    assert listed - used == {"PROMPTRL_SHARED"}  # of the tests


def test_the_two_lines_of_the_harnesses_come_first() -> None:
    first = re.search(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert first is not None
    evalplus, lm_eval = first[1].splitlines()
    assert evalplus.startswith("$ evalplus.evaluate --strategy promptrl ")
    assert lm_eval == "$ lm_eval --model hf --model_args pretrained=M --tasks mbpp_plus_promptrl"
