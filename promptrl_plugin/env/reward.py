"""The shaped reward, with the symbols of the design:

``r_t = γ Φ(s_{t+1}) − Φ(s_t) + b·[all tests pass] − c·(generations spent in t)``

Potential-based shaping (Ng, Harada and Russell 1999) leaves the optimal policy unchanged: over an
episode at γ = 1 the Φ terms telescope. Φ of the initial state is 0, Φ of a terminal state is kept (not
set to 0), so that an episode that ends unsolved is still worth its best pass fraction; that makes
Φ(s_T) a part of the objective, which the ablations switch off with the weights.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from promptrl_plugin.config import RewardConfig
from promptrl_plugin.parsing import retried
from promptrl_plugin.records import GroupVerdict, Status

__all__ = ["all_pass", "pass_fraction", "potential", "reward"]


def pass_fraction(verdicts: Sequence[GroupVerdict]) -> float:
    """Share of all tests in the groups that passed, in [0, 1]."""
    total = sum(v.total for v in verdicts)
    return sum(sum(v.passed) for v in verdicts) / total if total else 0.0


def all_pass(verdicts: Sequence[GroupVerdict]) -> bool:
    """Whether every group passed."""
    return bool(verdicts) and all(v.status is Status.PASS for v in verdicts)


def potential(config: RewardConfig, program: str, entry_point: str, fraction: float) -> float:
    """Φ of a state whose best program is `program` with pass fraction `fraction`."""
    compiles, defines = _syntax(program, entry_point)
    return config.w_fraction * fraction + config.w_compiles * compiles + config.w_entry_point * defines


def reward(
    config: RewardConfig, gamma: float, phi_before: float, phi_after: float, solved: bool, generations: int
) -> float:
    """``r_t``; `solved` is [the submission passes all tests] and is true in at most one step."""
    return gamma * phi_after - phi_before + config.success_bonus * solved - config.generation_cost * generations


def _syntax(program: str, entry_point: str) -> tuple[bool, bool]:
    if not program.strip():
        return False, False
    try:
        tree = retried(lambda: ast.parse(program))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False, False
    names = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    names |= {t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    return True, not entry_point or entry_point in names  # a script defines nothing that is asked for
