"""The policy bundle: what a strategy has learned, as a folder of two files, never a pickle.

```
policy.safetensors   policy/…: parameters and observation statistics; projection/…: of the task embedding
manifest.json        schema, SHA-256 of the tensors and of the manifest itself, and what it was made from
```

It holds no text of any task: of train tasks and examples it keeps ids, hashes and fingerprints, and that
is what lets it refuse a task it was trained on. (An instruction that GEPA wrote may quote its train tasks.)

What ``network`` and ``weights`` are depends on the learner, which the manifest names in ``config.learner``
(a manifest that does not is of PPO):

| learner | network, besides obs_dim and n_actions | weights |
| --- | --- | --- |
| `ppo` | `ActorCritic.spec` | `ActorCritic.tensors` |
| `linucb` | alpha, ridge | theta: mean payoff weights, float32 ``[n_actions, obs_dim + 1]``, the last of the constant |
| `best-fixed` | sequence: names of operators | – |
| `gepa` | instruction: what replaces EvalPlus's | – |
"""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from promptrl_plugin.agent import bundle_files
from promptrl_plugin.agent.bundle_files import MANIFEST, SCHEMA_VERSION, TENSORS
from promptrl_plugin.config import LEARNED, TrainConfig, from_dict
from promptrl_plugin.errors import BundleError, ConfigError, LeakageError
from promptrl_plugin.records import Task, content_hash
from promptrl_plugin.storage.runs import environment
from promptrl_plugin.suites.fingerprints import Fingerprint, fingerprint, first_leak
from promptrl_plugin.suites.registry import load_suite

if TYPE_CHECKING:
    from promptrl_plugin.agent.network import ActorCritic

__all__ = ["MANIFEST", "SCHEMA_VERSION", "TENSORS", "Arrays", "Policy", "PolicyBundle", "same_model"]

Arrays = Mapping[str, npt.NDArray[Any]]
Policy = Callable[[npt.NDArray[np.float32], npt.NDArray[np.bool_]], int]
"""``(raw observation [obs_dim], mask [n_actions]) -> action``, the likeliest allowed one."""

_ARRAYS = ("weights", "projection_mean", "projection_components")
_RECORD = ("metrics", "command", "environment", "created")  # how it came about, not what it does


@dataclass(frozen=True, eq=False, kw_only=True)
class PolicyBundle:
    """A trained agent with all that is needed to run it, and to refuse to.

    Attributes:
        backbone / backbone_fingerprint: The frozen model it was trained for (see `Backbone`).
        rewriter / rewriter_fingerprint: The model that wrote rewrites; empty for the backbone itself.
        embedder: Sentence embedder of the observation's task embedding.
        observation / observation_version: Names of the features, in order, and their definition's version.
        actions / action_digest: Names of the actions, in order, and the table's hash (`ActionTable.digest`).
        network / weights: What was learned, see the table above; observation statistics included.
        projection_mean / projection_components: Of the embedding, float32 ``[d]`` and ``[k, d]``.
        config: The resolved `TrainConfig`, as plain data.
        train_suite / train_suite_version: Where its train tasks come from.
        train_hashes: `Task.content_hash` of every task that trained it or chose its checkpoint.
        train_fingerprints: `suites.splits.fingerprint` of the same tasks.
        example_ids / example_hashes: The solved train tasks that its operators may show.
        metrics: Summary of training.
        command: The command that made it.
        environment: Versions it was made with.
        created: Time of making, ISO 8601, UTC.
        path: The folder it was loaded from; not part of the bundle.

    Raises:
        ValueError: The network does not fit observation or actions.
    """

    backbone: str
    backbone_fingerprint: str
    rewriter: str = ""
    rewriter_fingerprint: str = ""
    embedder: str
    observation: tuple[str, ...]
    observation_version: int
    actions: tuple[str, ...]
    action_digest: str
    network: dict[str, Any]
    weights: Arrays
    projection_mean: npt.NDArray[np.float32]
    projection_components: npt.NDArray[np.float32]
    config: dict[str, Any]
    train_suite: str
    train_suite_version: str
    train_hashes: tuple[str, ...]
    train_fingerprints: tuple[Any, ...]
    example_ids: tuple[str, ...] = ()
    example_hashes: tuple[str, ...] = ()
    metrics: dict[str, float | None] = field(default_factory=dict)
    command: str = ""
    environment: dict[str, Any] = field(default_factory=environment)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    path: Path | None = None

    def __post_init__(self) -> None:
        sizes = (self.network["obs_dim"], self.network["n_actions"])
        if sizes != (len(self.observation), len(self.actions)):
            raise ValueError(
                f"the network takes {sizes[0]} features and {sizes[1]} actions, "
                f"but {len(self.observation)} and {len(self.actions)} are named"
            )

    # --- use -------------------------------------------------------------------------------------

    def actor_critic(self) -> ActorCritic:
        """The network, with its observation statistics frozen."""
        from promptrl_plugin.agent.network import ActorCritic

        network = ActorCritic.from_spec(self.network, self.weights)
        network.normalizer.freeze()
        return network

    def policy(self) -> Policy:
        """The trained policy, acting greedily, of a learner that has one (ppo, linucb)."""
        if self.learner == "linucb":
            from promptrl_plugin.agent.linucb import mean_policy

            return mean_policy(self.weights["theta"])
        network = self.actor_critic()
        return lambda observation, mask: int(network.act(observation[None], mask[None])[0])

    @property
    def learner(self) -> str:
        """What made it: a value of `config.LEARNED`."""
        return str(self.config.get("learner", "ppo"))

    def train_command(self, model: str) -> str:
        """The command that trains another one by the same learner."""
        learner = "" if self.learner == "ppo" else f" --learner {self.learner}"
        return f"promptrl train{learner} --model {model}"

    @property
    def content_hash(self) -> str:
        """Hash of everything but the record of its making: equal for bundles that behave alike."""
        manifest = {k: v for k, v in self._manifest().items() if k not in _RECORD}
        return content_hash("policy-bundle", SCHEMA_VERSION, manifest, bundle_files.sha256(self._tensor_bytes()))

    def train_config(self) -> TrainConfig:
        """The configuration that it was trained with.

        Raises:
            BundleError: It has settings that this promptrl does not know.
        """
        try:
            config: TrainConfig = from_dict(TrainConfig, self.config)
        except ConfigError as e:
            raise BundleError(f"{self._name}: {e}; train it again: {self.train_command(self.backbone)}") from None
        return config

    # --- refuse ----------------------------------------------------------------------------------

    def check_strategy(self, strategy: str) -> None:
        """Make sure that this is what the strategy learns, or whose operators it may use.

        Raises:
            BundleError: It is another learner's, or has no operators.
        """
        if strategy not in LEARNED:
            if self.learner == "gepa":
                raise BundleError(f"{self._name} is of learner gepa and has no operators; give {strategy} another")
            return
        if self.learner != LEARNED[strategy]:
            owner = next((s for s, learner in LEARNED.items() if learner == self.learner), self.learner)
            raise BundleError(
                f"{self._name} is of learner {self.learner}, for strategy {owner}, not {strategy}; train one: "
                f"promptrl train --learner {LEARNED[strategy]} --model {self.backbone}"
            )

    def check_backbone(self, backbone: str, backbone_fingerprint: str) -> None:
        """Make sure that the bundle was trained for this model.

        The model is compared by name (`same_model`). Other weights of it (the hub's instead of a quantized
        file's) are worth a warning, other numerics (bfloat16 on a GPU instead of float32) are not.

        Raises:
            BundleError: It was not; names the command that trains a fitting one.
        """
        if not same_model(backbone_fingerprint, self.backbone_fingerprint):
            raise self._unfit(
                f"was trained for backbone {self.backbone} ({self.backbone_fingerprint}), not {backbone} "
                f"({backbone_fingerprint})",
                backbone,
            )
        mine, other = (f.rpartition("/")[0] for f in (self.backbone_fingerprint, backbone_fingerprint))
        if mine != other:
            warnings.warn(
                f"{self._name} was trained on {self.backbone_fingerprint}, this is {backbone_fingerprint}: "
                "the same model with other weights, so it may do less well",
                stacklevel=3,
            )

    def check_compatible(
        self,
        *,
        backbone: str,
        backbone_fingerprint: str,
        action_digest: str,
        observation: Sequence[str],
        observation_version: int,
    ) -> None:
        """Make sure that the bundle was trained for this model (`check_backbone`), action table and observation.

        Raises:
            BundleError: It was not; names what differs and the command that trains a fitting one.
        """
        self.check_backbone(backbone, backbone_fingerprint)
        if action_digest != self.action_digest:
            names = ", ".join(self.actions)
            raise self._unfit(f"was trained with another action table ({len(self.actions)} actions: {names})", backbone)
        if (tuple(observation), observation_version) != (self.observation, self.observation_version):
            difference = self._first_difference(observation)
            raise self._unfit(f"was trained with another observation layout{difference}", backbone)

    def check_no_leak(self, tasks: Iterable[Task]) -> None:
        """Make sure that none of these tasks, or a near-duplicate of one, trained the policy or is shown by it.

        Raises:
            LeakageError: One did, or is.
            DataError: The suite of the examples that it shows is not at hand.
        """
        asked = list(tasks)
        hashes = {*self.train_hashes, *self.example_hashes}
        same = next((i for i, task in enumerate(asked) if task.content_hash in hashes), None)
        if same is not None:
            found: tuple[int, str] | None = (same, "the same prompt as a train task")
        else:
            found = first_leak(self.train_fingerprints, asked) or first_leak(
                self._example_fingerprints(), asked, kind="example"
            )
        if found is not None:
            raise LeakageError(
                f"{self._name} must not solve {asked[found[0]].id}, which has {found[1]} of it; use "
                "--split crossfit:5, or a policy trained on other tasks: "
                f"{self.train_command(self.backbone)} --suite mbpp-train"
            )

    def _example_fingerprints(self) -> list[Fingerprint]:
        """Of the solved tasks that its operators show, read from their suite again; an instruction shows none."""
        if self.learner == "gepa" or not self.example_hashes:
            return []
        suite, shown = load_suite(self.train_config().example_suite), frozenset(self.example_hashes)
        hidden = suite.hidden()
        return [fingerprint(t, hidden[t.id].reference) for t in suite.tasks() if t.content_hash in shown]

    @property
    def _name(self) -> str:
        return f"policy bundle {self.path}" if self.path is not None else "the policy bundle"

    def _unfit(self, differs: str, model: str) -> BundleError:
        return BundleError(f"{self._name} {differs}; train one that fits: {self.train_command(model)}")

    def _first_difference(self, observation: Sequence[str]) -> str:
        if len(observation) != len(self.observation):
            return f" ({len(self.observation)} features, not {len(observation)})"
        pairs = zip(self.observation, observation, strict=True)
        return next((f" ({mine}, not {theirs})" for mine, theirs in pairs if mine != theirs), " (another version)")

    # --- save and load -----------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the bundle to a folder, atomically; a bundle that is already there is replaced.

        Raises:
            BundleError: There is something else at `path`.
        """
        path = Path(path)
        bundle_files.write_files(path, self._manifest(), self._tensor_bytes())
        return path

    @classmethod
    def load(cls, path: str | Path) -> PolicyBundle:
        """Read a bundle and verify every hash in it.

        Raises:
            BundleError: It is missing, incomplete, changed, or written by a newer promptrl.
        """
        path = Path(path)
        manifest, tensors = bundle_files.read_files(path)
        try:
            return cls(**_tuples(manifest), **_unflatten(tensors), path=path)
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            raise BundleError(f"policy bundle {path} is malformed: {e}; {bundle_files.REMEDY}") from None

    def _manifest(self) -> dict[str, Any]:
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in (*_ARRAYS, "path")}
        data["metrics"] = {k: v if v is None or math.isfinite(v) else None for k, v in self.metrics.items()}
        plain: dict[str, Any] = json.loads(json.dumps(data, allow_nan=False))
        return plain

    def _tensor_bytes(self) -> bytes:
        from safetensors.numpy import save

        tensors = {f"policy/{name}": np.array(a, order="C") for name, a in self.weights.items()}
        for name in ("mean", "components"):
            tensors[f"projection/{name}"] = np.array(getattr(self, f"projection_{name}"), dtype=np.float32, order="C")
        content: bytes = save(tensors)
        return content


def same_model(fingerprint: str, other: str) -> bool:
    """Whether two backbone fingerprints (``name@weights/dtype``) name the same model."""
    return fingerprint.partition("@")[0] == other.partition("@")[0]


def _unflatten(content: bytes) -> dict[str, Any]:
    tensors = bundle_files.read_tensors(content)
    weights = {name.removeprefix("policy/"): a for name, a in tensors.items() if name.startswith("policy/")}
    return {
        "weights": weights,
        "projection_mean": tensors["projection/mean"],
        "projection_components": tensors["projection/components"],
    }


def _tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    """JSON lists back to the tuples that the fields are."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
