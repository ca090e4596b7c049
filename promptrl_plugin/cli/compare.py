"""``promptrl compare``: strategies × seeds on one suite, with intervals and paired tests."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptrl_plugin.cli.console import console
from promptrl_plugin.cli.evaluate import (
    Backend,
    BaseUrl,
    Budget,
    Dtype,
    Model,
    Protocol,
    RayAddress,
    Selector,
    SolveProgress,
    SplitConfig,
    joined_urls,
    seed_numbers,
)
from promptrl_plugin.cli.report import print_tables
from promptrl_plugin.config import DEFAULT_BACKBONE, DEFAULT_SUITE, PROTOCOLS, TAKES_POLICY, env_of
from promptrl_plugin.errors import ConfigError, UnknownNameError
from promptrl_plugin.plugins import plugin_names

if TYPE_CHECKING:
    from promptrl_plugin.evaluation.compare import Cell, Outcome

__all__ = ["compare", "parse_policies"]

_DEFAULT = "direct,best-of-k,greedy-best-of-k,random-hybrid,promptrl"


def compare(
    out: Annotated[Path, typer.Option(help="Folder of the comparison; an interrupted one goes on there.")],
    strategies: Annotated[str, typer.Option(help="Names, separated by commas.")] = _DEFAULT,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    suite: Annotated[str, typer.Option(help="Suite to solve, see `promptrl suites`.")] = DEFAULT_SUITE,
    model: Model = DEFAULT_BACKBONE,
    backend: Backend = "hf",
    dtype: Dtype = "auto",
    base_url: BaseUrl = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="Policy bundle, repeatable: PATH for promptrl, NAME=PATH for a strategy that is trained (or for "
            "random-hybrid: choice among that policy's operators), "
            "NAME:LABEL=PATH for a row of its own (an ablation, say); {seed} in PATH stands for the seed."
        ),
    ] = None,
    budget: Budget = None,
    feedback: Annotated[str | None, typer.Option(help="none, visible or oracle (default: visible).")] = None,
    selector: Selector = "first",
    protocol: Protocol = PROTOCOLS[0],
    split: Annotated[
        str | None,
        typer.Option(
            help="crossfit:K: rows that are trained and have no --policy train on K-1 folds of the suite and solve the "
            "other."
        ),
    ] = None,
    config: SplitConfig = None,
    ray: RayAddress = None,
) -> None:
    """Run strategies at equal budget on the same tasks and seeds, judge them, and test the differences.

    Prints strict and soft pass@1 with bootstrap intervals over tasks and seeds, what was spent, and how each
    strategy differs from promptrl (or from the last one named). All outcomes by task are in results.json.

    A trained strategy takes the policy that ships for the model unless --policy gives it another. Rows with a label
    are added to those of --strategies: `--policy promptrl:no-semantic=runs/no-semantic-{seed}/bundle`.
    """
    from promptrl_plugin.evaluation.compare import Matrix, run_matrix
    from promptrl_plugin.evaluation.summary import by_strategy, contests, reference_of, summarise
    from promptrl_plugin.evaluation.tables import report_tables
    from promptrl_plugin.harnesses.options import BackboneOptions

    named = [s.strip() for s in strategies.split(",") if s.strip()]
    policies = parse_policies(policy or [])
    names = (*named, *(row for row in policies if ":" in row and row not in named))
    backbone = BackboneOptions(model, backend, dtype, joined_urls(base_url))
    ours = policies.pop("promptrl", "")
    rows = tuple(policies.items())
    usual = env_of(protocol)
    matrix = Matrix(
        suite, backbone, names, seed_numbers(seeds), usual.budget if budget is None else budget, feedback or usual.feedback,
        ours, selector, rows, protocol, split or "", str(config or ""),
    )  # fmt: skip
    with ExitStack() as stack:
        cluster = None
        if ray is not None:
            from promptrl_plugin.evaluation.cluster import Cluster

            cluster = stack.enter_context(Cluster(ray))
        results = run_matrix(matrix, out, SolveProgress(), _announce, cluster)
    if matrix.feedback == "oracle":
        console.print(
            "feedback=oracle: hidden tests guided the search; not eligible for a leaderboard", highlight=False
        )
    outcomes = by_strategy(results)
    reference = reference_of(list(outcomes))
    figures = [summarise(*of_strategy) for of_strategy in outcomes.items()]
    print_tables(report_tables(reference, figures, contests(outcomes, reference)))
    console.print(f"outcomes by task: {out / 'results.json'}", highlight=False, soft_wrap=True)
    console.print(f"charts, episodes and tasks: promptrl report {out}", highlight=False, soft_wrap=True)


def parse_policies(given: Sequence[str]) -> dict[str, str]:
    """Read ``PATH``, ``NAME=PATH`` and ``NAME:LABEL=PATH``; paths by row, ``{seed}`` still in them.

    What stands before the first ``=`` is a path's beginning if it has a ``/`` in it.

    Raises:
        UnknownNameError: NAME is no strategy that is trained.
        ConfigError: A row is named twice, or a label or a path is empty.
    """
    policies: dict[str, str] = {}
    for text in given:
        row, equals, path = text.partition("=")
        if not equals or "/" in row:
            row, path = "promptrl", text
        name, colon, label = row.partition(":")
        takers = {*TAKES_POLICY, *plugin_names("promptrl.strategies")}
        if name not in takers:
            raise UnknownNameError("trained strategy", name, takers)
        if row in policies or not path or (colon and not label):
            raise ConfigError(f"--policy {text}: give each row once, as NAME=PATH or NAME:LABEL=PATH")
        policies[row] = path
    return policies


def _announce(cell: Cell, outcomes: list[Outcome]) -> None:
    solved = sum(o.strict for o in outcomes)
    console.print(f"{cell.name}: {solved} of {len(outcomes)} tasks solved", highlight=False)
