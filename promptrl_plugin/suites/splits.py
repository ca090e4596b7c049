"""Splits by content: no task, and no near-duplicate of it, is on two sides.

See `promptrl_plugin.suites.fingerprints` for what counts as a near-duplicate. Every split depends on the
tasks' content and the seed only, not on their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from promptrl_plugin.errors import ConfigError, LeakageError
from promptrl_plugin.records import Task, content_hash
from promptrl_plugin.suites.fingerprints import (
    Fingerprint,
    NearDuplicate,
    find_near_duplicates,
    fingerprint,
    leaks,
)

__all__ = [
    "Fingerprint",
    "Fold",
    "NearDuplicate",
    "assert_disjoint",
    "content_groups",
    "crossfit",
    "find_near_duplicates",
    "fingerprint",
    "leaks",
    "train_test_split",
]


@dataclass(frozen=True, slots=True)
class Fold:
    """One fold of a cross-fit: a policy trained on `train` solves `test`."""

    index: int
    train: tuple[Task, ...]
    test: tuple[Task, ...]


def assert_disjoint(train: Iterable[Fingerprint], tasks: Iterable[Task]) -> None:
    """Refuse to evaluate on what was trained on.

    Args:
        train: Fingerprints of the train tasks, as a bundle's manifest holds them.
        tasks: The tasks to be solved.

    Raises:
        LeakageError: A task is, or is a near-duplicate of, a train task; the message names it.
    """
    train = list(train)
    found = [(task.id, reason) for task in tasks if (reason := leaks(train, task))]
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise LeakageError(
            f"task {found[0][0]} has {found[0][1]} of this policy{more}; leave it out, or use a policy "
            "that was trained without it (--split crossfit:K makes one for every fold)"
        )


def content_groups(tasks: Sequence[Task], references: Mapping[str, str] | None = None) -> list[tuple[Task, ...]]:
    """Connected groups of near-duplicates; a task like no other is a group of one.

    Args:
        tasks: The tasks.
        references: Right programs by task id; with them, tasks that are the same program under other words are found.
    """
    position = {task.id: i for i, task in enumerate(tasks)}
    parent = list(range(len(tasks)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    prints = [fingerprint(task, (references or {}).get(task.id, "")) for task in tasks]
    for pair in find_near_duplicates(prints, prints):
        parent[root(position[pair.candidate])] = root(position[pair.other])
    groups: dict[int, list[Task]] = {}
    for i, task in enumerate(tasks):
        groups.setdefault(root(i), []).append(task)
    return [tuple(group) for group in groups.values()]


def train_test_split(
    tasks: Sequence[Task], test_fraction: float, seed: int
) -> tuple[tuple[Task, ...], tuple[Task, ...]]:
    """Split `tasks` into train and test of about the share `test_fraction`, groups kept together.

    Returns:
        Train and test tasks, each in the order of `tasks`.

    Raises:
        ConfigError: `test_fraction` is not between 0 and 1, or one side would be empty.
    """
    if not 0.0 < test_fraction < 1.0:
        raise ConfigError(f"the test share must lie between 0 and 1, not {test_fraction}")
    wanted = max(1, round(test_fraction * len(tasks)))
    chosen: set[str] = set()
    for group in _shuffled(content_groups(tasks), seed):
        if len(chosen) + len(group) <= wanted:
            chosen.update(task.id for task in group)
    train = tuple(t for t in tasks if t.id not in chosen)
    if not chosen or not train:
        raise ConfigError(f"{len(tasks)} tasks are too few, or too alike, to hold out a share of {test_fraction}")
    return train, tuple(t for t in tasks if t.id in chosen)


def crossfit(tasks: Sequence[Task], k: int, seed: int, references: Mapping[str, str] | None = None) -> tuple[Fold, ...]:
    """Split `tasks` into `k` folds of about the same size, near-duplicates in the same fold.

    Each task is a test task of exactly one fold and a train task of all the others.

    Args:
        tasks: The tasks.
        k: Number of folds.
        seed: Of the split.
        references: Right programs by task id, see `content_groups`.

    Raises:
        ConfigError: `k` is below 2 or more than there are groups of near-duplicates.
    """
    groups = content_groups(tasks, references)
    if not 2 <= k <= len(groups):
        raise ConfigError(f"crossfit:{k} is not possible with {len(groups)} distinct tasks; K must be 2 to that")
    sizes = [0] * k
    fold_of: dict[str, int] = {}
    # Largest groups first, each into the smallest fold, keeps the folds even.
    for group in sorted(_shuffled(groups, seed), key=len, reverse=True):
        smallest = sizes.index(min(sizes))
        sizes[smallest] += len(group)
        fold_of.update((task.id, smallest) for task in group)
    return tuple(
        Fold(
            index=i,
            train=tuple(t for t in tasks if fold_of[t.id] != i),
            test=tuple(t for t in tasks if fold_of[t.id] == i),
        )
        for i in range(k)
    )


def _shuffled(groups: Iterable[tuple[Task, ...]], seed: int) -> list[tuple[Task, ...]]:
    """Groups in an order that depends on the seed and their content only."""
    return sorted(groups, key=lambda group: content_hash(seed, sorted(task.content_hash for task in group)))
