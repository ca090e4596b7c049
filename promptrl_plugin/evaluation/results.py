"""What `promptrl compare` leaves behind, read again: ``results.json`` and where the policies of its rows are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from promptrl_plugin.errors import ConfigError
from promptrl_plugin.evaluation.outcomes import Outcome
from promptrl_plugin.storage.runs import RunFolder

__all__ = ["RESULTS", "bundle_of", "load_results", "read_results", "refuse_training"]

RESULTS = "results.json"


def load_results(folder: Path) -> dict[str, list[Outcome]]:
    """Outcomes by cell name, as `run_matrix` wrote them.

    Raises:
        ConfigError: There are none, or they are damaged.
    """
    try:
        cells = {name: [Outcome.of(row) for row in rows] for name, rows in read_results(folder)["cells"].items()}
        for name in cells:
            int(name.rpartition("-s")[2])  # `Cell.name` ends with the seed
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _damaged(folder) from None
    if len({len(o.curve) for outcomes in cells.values() for o in outcomes}) > 1:  # each is as long as the budget
        raise _damaged(folder)
    return cells


def read_results(folder: Path) -> dict[str, Any]:
    """``results.json`` as it is.

    ``suite_version``; ``cells``: rows of `Outcome` by cell name; ``samples``: the cells' samples files, relative
    to `folder` (missing where an earlier version wrote them); ``policies``: those of the rows in `Matrix.paths`;
    ``models``: `Backbone.fingerprint` by cell name, which tells the type that ``--dtype auto`` came to (missing
    where an earlier version wrote the cell).

    Raises:
        ConfigError: There is none, or it is damaged.
    """
    try:
        results: dict[str, Any] = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        needed = {"suite_version": results["suite_version"], "cells": results["cells"]}
        found = {"samples": {}, "policies": {}, "models": {}} | needed | results
        if not isinstance(found["cells"], dict) or any(
            type(name) is not str for names in ("samples", "policies", "models") for name in found[names].values()
        ):
            raise TypeError
        return found
    except OSError as e:
        refuse_training(folder)
        raise ConfigError(
            f"{folder} holds no results ({e.strerror}); run the same `promptrl compare` command again to make them"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(folder) from None


def bundle_of(folder: Path, row: str, seed: int) -> list[Path]:
    """Where the policy bundle of a cell may be, as it was named: seen from here, and from beside `folder`.

    Empty where the row was given none, so that it has no policy or took the one that ships.

    Raises:
        ConfigError: As `read_results` and `RunFolder`.
    """
    named = {"promptrl": str(RunFolder.open(folder).config().get("policy") or ""), **read_results(folder)["policies"]}
    if not named.get(row):
        return []
    path = Path(named[row].replace("{seed}", str(seed)))
    return [base / path for base in (Path(), folder.absolute().parent)]


def _damaged(folder: Path) -> ConfigError:
    return ConfigError(
        f"{folder / RESULTS} is damaged; delete it and run the same `promptrl compare` command again: "
        "the samples are kept"
    )


def refuse_training(folder: Path) -> None:
    """Refuse the run folder of a training, where a comparison's is wanted.

    Raises:
        ConfigError: It is one.
    """
    run = RunFolder(folder)
    if run.config_path.is_file() and "learner" in run.config():
        raise ConfigError(
            f"{folder} is the run folder of a training, not of a comparison; give the folder of `promptrl compare`, "
            f"and for the learning curve of the training: promptrl report FOLDER --run {folder}"
        )
