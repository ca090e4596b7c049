"""Replaying: only what this run generated may be taken again, and it costs nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from doubles import make_rollout

from promptrl_plugin.backbones.base import Backbone
from promptrl_plugin.backbones.caching import RecordingBackbone
from promptrl_plugin.backbones.scripted import ScriptedBackbone
from promptrl_plugin.env.recall import Recall
from promptrl_plugin.env.rollout import Rollout
from promptrl_plugin.env.vector_env import VectorPromptEnv
from promptrl_plugin.errors import BackboneError
from promptrl_plugin.storage.cache import Cache


class World:
    """A rollout whose generations are recorded, with the names of its actions."""

    def __init__(self, cache: Cache, **options: int) -> None:
        self.recorders: list[RecordingBackbone] = []
        self.rollout: Rollout
        self.backbone: ScriptedBackbone
        self.rollout, setup, self.backbone = make_rollout(wrap=lambda b: self._record(b, cache), **options)
        self.layout, self.names = setup.layout, setup.table.names
        self.recall = Recall(self.recorders[0])

    def _record(self, backbone: Backbone, cache: Cache) -> Backbone:
        self.recorders.append(RecordingBackbone(backbone, cache))
        return self.recorders[0]

    def take(self, index: int, *actions: str) -> None:
        episode = self.rollout.start(index)
        for action in actions:
            self.rollout.step([(episode, self.names.index(action))])

    def known(self, index: int, *actions: str) -> set[str]:
        episode = self.rollout.start(index)
        for action in actions:
            self.rollout.step([(episode, self.names.index(action))])
        return {self.names[i] for i in np.flatnonzero(self.recall.mask(episode.episode))}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(Cache(tmp_path / "cache.sqlite"))


def test_only_steps_whose_generations_were_made_are_known(world: World):
    assert world.known(0) == set()
    world.take(0, "plan_first")
    assert world.known(0) == {"plan_first"}
    assert world.known(1) == set(), "another task was not tried"
    world.take(0, "edge_cases")
    assert world.known(0) == {"plan_first", "edge_cases"}


def test_stop_is_no_choice_where_it_is_the_only_one(world: World):
    world.take(0, "plan_first")
    assert world.known(0, "plan_first") == set()
    world.take(0, "plan_first", "edge_cases")
    assert world.known(0, "plan_first") == {"edge_cases", "stop"}


def test_a_prompt_reached_on_another_way_is_known(world: World):
    """What counts is the request, not the path that led to it."""
    world.take(0, "generate", "plan_first")
    assert world.known(0) == {"generate", "plan_first"}


def test_going_back_is_known_where_it_leads_on(world: World):
    world.take(0, "plan_first")
    world.take(0, "generate")
    assert world.known(0, "plan_first") == {"reset", "stop"}
    assert world.known(0, "plan_first", "reset") == {"generate", "stop"}
    assert world.known(0, "plan_first", "reset", "generate") == set(), "the task's own prompt with nothing new"


def test_a_rewrite_is_known_only_with_its_program(world: World):
    world.take(0, "clarify")
    assert world.known(0) >= {"clarify"}
    assert world.known(1) == set()


def test_replayed_episodes_generate_nothing_and_are_cut_where_memory_ends(tmp_path: Path):
    world = World(Cache(tmp_path / "cache.sqlite"), n_tasks=4)
    for index in (0, 2):
        world.take(index, "plan_first")
    made = len(world.backbone.requests)
    env = VectorPromptEnv(world.rollout, world.layout, 3, recall=world.recall)
    env.reset(seed=0)
    cut, tasks = 0, set()
    for _ in range(12):
        masks = env.action_masks()
        assert masks.any(axis=1).all()
        tasks |= {e.index for e in env._episodes}
        moves = [next(i for i in np.flatnonzero(m) if world.names[i] != "stop") for m in masks]
        _, _, terminated, truncated, infos = env.step(np.array(moves))
        assert not terminated.any(), "one step does not spend the budget of 4"
        cut += int(truncated.sum())
        assert all(infos["final_observation"][i] is not None for i in np.flatnonzero(truncated))
    assert cut == 36, "every step of three environments leads to where nothing is known"
    assert tasks == {0, 2}
    assert len(world.backbone.requests) == made


def test_nothing_to_replay_is_an_error_and_no_endless_search(world: World):
    with pytest.raises(ValueError, match="nothing was generated"):
        VectorPromptEnv(world.rollout, world.layout, 2, recall=world.recall).reset(seed=0)


def test_state_brings_the_memory_back_and_says_when_the_cache_lost_it(tmp_path: Path):
    cache = Cache(tmp_path / "cache.sqlite")
    world = World(cache)
    world.take(0, "plan_first")
    state = world.recall.get_state()
    again = World(cache)
    assert again.known(0) == set(), "another run's completions in the cache do not count"
    again.recall.set_state(state)
    assert again.known(0) == {"plan_first"}
    empty = World(Cache(tmp_path / "empty.sqlite"))
    with pytest.raises(BackboneError, match="1 generations of the interrupted run are no longer"):
        empty.recall.set_state(state)
