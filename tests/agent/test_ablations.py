"""What `--ablate` switches off: configuration, action table, reward and observation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from doubles import make_rollout

from promptrl_plugin.agent.ablations import ABLATIONS, ablate
from promptrl_plugin.config import TrainConfig, from_dict, to_dict
from promptrl_plugin.env.observation import ObservationLayout
from promptrl_plugin.env.reward import potential, reward
from promptrl_plugin.errors import ConfigError, UnknownNameError
from promptrl_plugin.prompts.action_space import ActionTable

RIGHT = "def f(x):\n    return x\n"


@pytest.mark.parametrize("name", ABLATIONS)
def test_each_ablation_changes_the_configuration_and_survives_a_manifest(name: str) -> None:
    config = ablate(TrainConfig(), [name])
    assert config != TrainConfig()
    assert from_dict(TrainConfig, to_dict(config)) == config
    assert ablate(config, [name]) == config


def test_ablations_add_up_and_unknown_ones_are_refused() -> None:
    config = ablate(TrainConfig(), ["no-lexical", "no-task-embedding", "no-execution-features"])
    assert config.operator_kinds == ("direct", "semantic")
    assert config.blank_features == ("embedding", "exec", "agreement")
    with pytest.raises(UnknownNameError, match="no-lexical"):
        ablate(TrainConfig(), ["no-lexicals"])


@pytest.mark.parametrize("kind", ["direct", "lexical", "semantic"])
def test_an_operator_kind_is_off_and_the_rest_of_the_table_stays(kind: str) -> None:
    whole = ActionTable.default()
    table = ActionTable.default(ablate(TrainConfig(), [f"no-{kind}"]).operator_kinds)
    assert table.names == tuple(
        a.name for a in whole.actions if a.operator.kind != kind or a.name in ("stop", "revert", "reset")
    )
    assert table.digest != whole.digest
    assert ActionTable.of(table.names).digest == table.digest


def test_an_episode_must_be_able_to_begin() -> None:
    with pytest.raises(ConfigError, match="cannot begin"):
        ActionTable.default(ablate(TrainConfig(), ["no-direct", "no-semantic"]).operator_kinds)


def test_without_direct_operators_an_episode_begins_with_an_edit() -> None:
    rollout, _, _ = make_rollout()
    table = ActionTable.default(("lexical", "semantic"))
    rollout.context = replace(rollout.context, table=table)
    episode = rollout.start(0)
    allowed = {table.names[i] for i in np.flatnonzero(episode.episode.mask())}
    assert "plan_first" in allowed
    assert not allowed & {"generate", "sample_warm", "sample_hot", "stop"}
    rollout.step([(episode, table.names.index("plan_first"))])
    assert episode.episode.best is not None


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("no-fraction-reward", 1.0),
        ("no-compiles-reward", 0.05),
        ("no-entry-point-reward", 0.05),
        ("no-success-reward", 1.0),
        ("no-cost", -0.05),
    ],
)
def test_a_reward_term_is_off_and_the_others_stay(name: str, lost: float) -> None:
    def worth(config: TrainConfig) -> float:
        phi = potential(config.reward, RIGHT, "f", 1.0)
        return reward(config.reward, 1.0, 0.0, phi, True, 1)

    assert worth(TrainConfig()) - worth(ablate(TrainConfig(), [name])) == pytest.approx(lost)


def test_blank_blocks_are_zero_and_keep_their_names() -> None:
    rollout, setup, _ = make_rollout()
    e = rollout.start(1)
    rollout.step([(e, setup.table.names.index("generate"))])
    whole = setup.layout.observe(e.episode)
    layout = ObservationLayout.of(setup.table, setup.layout.embedding_dim, ("exec", "embedding"))
    assert layout.names == setup.layout.names
    blank = np.array([n.startswith(("exec.", "embedding.")) for n in layout.names])
    assert np.any(whole[blank])
    assert not np.any(layout.observe(e.episode)[blank])
    np.testing.assert_array_equal(layout.observe(e.episode)[~blank], whole[~blank])


def test_a_block_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown block of the observation 'execution'"):
        ObservationLayout.of(ActionTable.default(), 4, ("execution",))
