"""Strategies by name: the built-in table and the entry-point group ``promptrl.strategies``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from promptrl_plugin.agent.bundle import MANIFEST, PolicyBundle, same_model
from promptrl_plugin.agent.setup import EpisodeSetup
from promptrl_plugin.backbones.base import Backbone
from promptrl_plugin.backbones.registry import load_backbone
from promptrl_plugin.config import LEARNED, TAKES_POLICY
from promptrl_plugin.env.observation import OBSERVATION_VERSION
from promptrl_plugin.errors import BundleError, UnknownNameError
from promptrl_plugin.plugins import load_plugin, plugin_names
from promptrl_plugin.storage.cache import Cache
from promptrl_plugin.strategies.base import Strategy
from promptrl_plugin.strategies.best_of_k import BestOfK, GreedyBestOfK
from promptrl_plugin.strategies.direct import Direct
from promptrl_plugin.strategies.epic import Epic
from promptrl_plugin.strategies.episodes import BestFixed, LinUCB, PromptRL, RandomHybrid
from promptrl_plugin.strategies.gepa import Gepa
from promptrl_plugin.strategies.reflexion import Reflexion

__all__ = [
    "ENTRY_POINT_GROUP",
    "STRATEGIES",
    "check_fitting",
    "check_shipped",
    "make_strategy",
    "shipped_policies",
    "strategy_names",
]

#: Another package adds a strategy with an entry point of this group: a callable of `Factory`'s signature.
ENTRY_POINT_GROUP = "promptrl.strategies"
POLICIES = Path(__file__).parent.parent / "policies"  #: bundles that the package ships

Factory = Callable[[Backbone, Path | None, Cache | None], Strategy]
"""Makes a strategy for a backbone, a policy bundle's folder (None: not given) and a cache of embeddings."""


def _learned(
    name: str, make: Callable[[EpisodeSetup, PolicyBundle, Backbone | None], Strategy]
) -> Callable[[Backbone, Path | None, Cache | None], Strategy]:
    """Factory of a strategy that acts in episodes by what its bundle holds."""

    def factory(backbone: Backbone, policy: Path | None, cache: Cache | None) -> Strategy:
        bundle = _bundle(name, backbone, policy)
        setup = EpisodeSetup.from_bundle(bundle, cache)
        bundle.check_compatible(
            backbone=backbone.name,
            backbone_fingerprint=backbone.fingerprint,
            action_digest=setup.table.digest,
            observation=setup.layout.names,
            observation_version=OBSERVATION_VERSION,
        )
        return make(setup, bundle, _rewriter(bundle, cache))

    return factory


def _gepa(backbone: Backbone, policy: Path | None, cache: Cache | None) -> Strategy:
    """An instruction knows nothing of actions and observations: only the model has to be that of training."""
    bundle = _bundle("gepa", backbone, policy)
    bundle.check_backbone(backbone.name, backbone.fingerprint)
    return Gepa(bundle)


def _random_hybrid(backbone: Backbone, policy: Path | None, cache: Cache | None) -> Strategy:
    """Random choice among all operators, or among those of a policy: what choosing by what was learned adds."""
    if policy is None:
        return RandomHybrid(EpisodeSetup.untrained(cache))
    bundle = _bundle("random-hybrid", backbone, policy)
    bundle.check_backbone(backbone.name, backbone.fingerprint)
    return RandomHybrid(EpisodeSetup.from_bundle(bundle, cache), _rewriter(bundle, cache), bundle)


def _bundle(name: str, backbone: Backbone, policy: Path | None) -> PolicyBundle:
    """The bundle of strategy `name` in folder `policy`, or the one that ships for the model.

    Raises:
        BundleError: It is missing, damaged, or another learner's.
    """
    if policy is None:
        return _shipped(name, backbone)
    bundle = PolicyBundle.load(policy)
    bundle.check_strategy(name)
    return bundle


def _rewriter(bundle: PolicyBundle, cache: Cache | None) -> Backbone | None:
    """The separate rewriter that a policy was trained with, loaded as it was in training."""
    if not bundle.rewriter:
        return None
    config = bundle.train_config()
    rewriter = load_backbone(
        bundle.rewriter, backend=config.backend, dtype=config.dtype, base_url=config.base_url or None, cache=cache
    )
    if not same_model(rewriter.fingerprint, bundle.rewriter_fingerprint):
        raise BundleError(
            f"the policy was trained with rewriter {bundle.rewriter_fingerprint}, not {rewriter.fingerprint}; "
            f"train one that fits: promptrl train --model {bundle.backbone}"
        )
    return rewriter


def _shipped(name: str, backbone: Backbone) -> PolicyBundle:
    for path in shipped_policies():
        bundle = PolicyBundle.load(path)
        if bundle.learner == LEARNED[name] and same_model(bundle.backbone_fingerprint, backbone.fingerprint):
            return bundle
    raise _none_ships(name, backbone.name)


def _none_ships(name: str, model: str) -> BundleError:
    learner = "" if name == "promptrl" else f"--learner {LEARNED[name]} "
    return BundleError(
        f"no policy of strategy {name} ships for model {model}; train one with: promptrl train {learner}"
        f"--model {model}, and give its bundle with --policy"
    )


def check_shipped(name: str, model: str) -> None:
    """Make sure, before the model is loaded, that a policy may ship for it: some learners' do for no model.

    Raises:
        BundleError: None does; names the command that trains one.
    """
    if name in LEARNED and all(PolicyBundle.load(path).learner != LEARNED[name] for path in shipped_policies()):
        raise _none_ships(name, model)


def check_fitting(name: str, backbone: Backbone, policy: Path | None) -> None:
    """Make sure that the policy of a built-in strategy is of this model, without making the strategy.

    Raises:
        BundleError: It is not, or none was given and none ships.
    """
    if name not in TAKES_POLICY or (policy is None and name not in LEARNED):
        return
    bundle = _bundle(name, backbone, policy)
    if not same_model(bundle.backbone_fingerprint, backbone.fingerprint):
        bundle.check_backbone(backbone.name, backbone.fingerprint)


STRATEGIES: Mapping[str, Factory] = MappingProxyType(
    {
        "direct": lambda backbone, policy, cache: Direct(),
        "best-of-k": lambda backbone, policy, cache: BestOfK(),
        "greedy-best-of-k": lambda backbone, policy, cache: GreedyBestOfK(),
        "epic": lambda backbone, policy, cache: Epic(),
        "reflexion": lambda backbone, policy, cache: Reflexion(),
        "random-hybrid": _random_hybrid,
        "promptrl": _learned("promptrl", PromptRL),
        "linucb": _learned("linucb", LinUCB),
        "best-fixed": _learned("best-fixed", BestFixed),
        "gepa": _gepa,
    }
)


def make_strategy(name: str, *, backbone: Backbone, policy: Path | None = None, cache: Cache | None = None) -> Strategy:
    """Make a strategy.

    Args:
        name: One of `strategy_names`.
        backbone: The model that it will prompt.
        policy: Folder of a policy bundle, for a learned strategy; None takes the one that ships for the model.
        cache: Where sentence embeddings are kept.

    Raises:
        UnknownNameError: No such strategy; near names are suggested.
        ConfigError: It is another package's and cannot be loaded.
        BundleError: No policy fits the model; names the command that trains one.
    """
    if name in STRATEGIES:
        return STRATEGIES[name](backbone, policy, cache)
    factory: Factory | None = load_plugin(ENTRY_POINT_GROUP, "strategy", name)
    if factory is not None:
        return factory(backbone, policy, cache)
    raise UnknownNameError("strategy", name, strategy_names())


def strategy_names() -> tuple[str, ...]:
    """Every name that `make_strategy` takes: the built-in ones, then those of other packages."""
    others = plugin_names(ENTRY_POINT_GROUP) - STRATEGIES.keys()
    return (*STRATEGIES, *sorted(others))


def shipped_policies() -> list[Path]:
    """Folders of the policy bundles in the package."""
    return sorted(p.parent for p in POLICIES.glob(f"*/{MANIFEST}"))
