"""What every learner shares while it trains: who listens, what is logged, when it is over, what it leaves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from promptrl_plugin.agent.bundle import Arrays
from promptrl_plugin.agent.curves import latest_rows, plot_learning_curve
from promptrl_plugin.agent.parts import TrainingParts, make_bundle
from promptrl_plugin.agent.tensorboard import ScalarLog
from promptrl_plugin.env.episode import Episode
from promptrl_plugin.env.observation import ObservationLayout
from promptrl_plugin.env.rollout import RewardedEpisode, Rollout
from promptrl_plugin.errors import ConfigError
from promptrl_plugin.storage.runs import RunFolder, write_json

__all__ = [
    "BEST",
    "Act",
    "MetricsLog",
    "Quota",
    "Selection",
    "TrainListener",
    "TrainResult",
    "damaged",
    "evaluate_policy",
    "finish",
    "random_choice",
]

BEST = "best.safetensors"
STALL = 50  #: rounds without a new generation after which a learner only repeats itself

Act = Callable[[npt.NDArray[np.float32], npt.NDArray[np.bool_]], int]
"""``(raw observation [obs_dim], mask [n_actions]) -> action``."""


class TrainListener(Protocol):
    """Follows a training run (the command line shows it, tests ignore it)."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A new stage begins; `total` steps of `advance` are expected."""

    def advance(self, steps: int) -> None:
        """Progress within the stage."""

    def generation(self) -> None:
        """The backbone finished a generation."""

    def metrics(self, values: dict[str, float]) -> None:
        """Figures of a rollout or a validation."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What training made.

    Attributes:
        bundle: Folder of the policy bundle.
        best_validation: Share of validation tasks solved by what was selected.
        curve: The learning curve's PNG.
        learned: What was learned, where a line can say it.
    """

    bundle: Path
    best_validation: float
    curve: Path
    learned: str = ""


class Quota:
    """The train generations of a learner: as many distinct ones as `TrainConfig.generations` says.

    Rewrites, reflections and the validation tasks' generations count, as they do for PPO. What is at work
    when the last one is made is finished, so a learner may spend a little more, never less, unless it only
    repeats itself.
    """

    def __init__(self, parts: TrainingParts, listener: TrainListener) -> None:
        self.limit = parts.config.generations or parts.config.ppo.total_steps
        self._parts, self._listener = parts, listener
        self._seen, self._idle = parts.generations, 0

    @property
    def left(self) -> int:
        return max(0, self.limit - self._parts.generations)

    def spent(self) -> bool:
        """Whether it is over; to be called once a round."""
        new = self._parts.generations - self._seen
        self._seen += new
        self._idle = 0 if new else self._idle + 1
        self._listener.advance(new)
        return not self.left or self._idle >= STALL


def finish(
    parts: TrainingParts,
    run: RunFolder,
    network: dict[str, Any],
    weights: Arrays,
    validation: float,
    learned: str = "",
) -> TrainResult:
    """Draw the learning curve and write the bundle.

    Args:
        parts: What was trained with.
        run: Where.
        network, weights: What was learned, see `PolicyBundle`.
        validation: Share of validation tasks that it solves.
        learned: See `TrainResult`.
    """
    rows = latest_rows(run.metrics())
    curve = plot_learning_curve(rows, run.path / "learning_curve.png")
    return TrainResult(make_bundle(parts, network, weights, rows, run.path / "bundle"), validation, curve, learned)


def evaluate_policy(rollout: Rollout, layout: ObservationLayout, actor: Callable[[], Act]) -> dict[str, float]:
    """Run one episode on every task of `rollout`, all at once; `actor` makes what acts in each, in their order.

    Returns:
        ``solved`` (share of tasks whose submission passes every test), ``visible`` (share that pass what
        is shown), ``fraction`` (mean best pass fraction), ``generations`` (mean spent) and ``return``.
    """

    def follow(act: Act) -> Callable[[Episode], int]:
        return lambda episode: act(layout.observe(episode), episode.mask())

    episodes = [(rollout.start(i), follow(actor())) for i in range(len(rollout.tasks))]
    rollout.play(episodes)
    return _summarise([e for e, _ in episodes])


def random_choice(parts: TrainingParts) -> dict[str, float]:
    """What choosing at random reaches on the validation tasks: the line that a learner has to pass."""
    seeds, table = np.random.SeedSequence(parts.config.seed), parts.setup.table

    def actor() -> Act:  # of its own in each episode, since nobody knows which moves first
        rng = np.random.default_rng(seeds.spawn(1)[0])
        return lambda _observation, mask: table.draw(mask, rng)

    figures = evaluate_policy(parts.validation, parts.setup.layout, actor)
    return {f"random/{k}": v for k, v in figures.items()}


def _summarise(episodes: Sequence[RewardedEpisode]) -> dict[str, float]:
    n = len(episodes)
    return {
        "solved": sum(e.solved for e in episodes) / n,
        "visible": sum(e.episode.solved for e in episodes) / n,
        "fraction": sum(e.fraction for e in episodes) / n,
        "generations": sum(e.episode.spent for e in episodes) / n,
        "return": sum(e.total for e in episodes) / n,
    }


class Learner(Protocol):
    """What `Selection` writes down."""

    num_timesteps: int

    def save_policy(self, path: Path) -> None: ...


@dataclass(frozen=True, slots=True)
class Selection:
    """The best checkpoint so far, by held-out train tasks (never by test tasks).

    Attributes:
        solved: Share of validation tasks whose submission passes every test; decides.
        mean_return: Mean return there; decides between equals.
        steps: Environment steps at which it was reached.
    """

    solved: float = -1.0
    mean_return: float = -math.inf
    steps: int = 0

    @classmethod
    def load(cls, run: RunFolder) -> Selection:
        """The selection of an interrupted run.

        Raises:
            ConfigError: Its file is damaged.
        """
        path = run.path / "selection.json"
        try:
            return cls(**json.loads(path.read_text())) if path.exists() else cls()
        except (OSError, ValueError, TypeError) as e:
            raise damaged(path, e) from None

    def better_of(self, figures: dict[str, float], agent: Learner, run: RunFolder) -> Selection:
        """Itself, or the agent's parameters (which are then written) where they are better."""
        if (figures["solved"], figures["return"]) <= (self.solved, self.mean_return):
            return self
        new = Selection(figures["solved"], figures["return"], agent.num_timesteps)
        agent.save_policy(run.path / BEST)
        write_json(run.path / "selection.json", asdict(new))
        return new


def damaged(path: Path, error: Exception) -> ConfigError:
    """What to say of a file of a run that cannot be read."""
    return ConfigError(
        f"cannot go on from {path} ({error}); train again in another folder: what was generated is in the cache"
    )


class MetricsLog:
    """Metrics of a run, as JSON Lines in the run folder and for TensorBoard."""

    def __init__(self, run: RunFolder, step: int) -> None:
        self._run = run
        self._tensorboard = ScalarLog(run.path / "tensorboard", step)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._tensorboard.close()
        self._run.close()

    def write(self, row: dict[str, float]) -> None:
        """Log the figures of one rollout."""
        self._run.log(row)
        self._tensorboard.write(int(row["steps"]), row)
