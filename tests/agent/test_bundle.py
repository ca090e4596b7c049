import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from promptrl_plugin.agent.bundle import MANIFEST, TENSORS, PolicyBundle
from promptrl_plugin.agent.network import ActorCritic
from promptrl_plugin.config import PPOConfig, TrainConfig, to_dict
from promptrl_plugin.errors import BundleError, LeakageError
from promptrl_plugin.records import AssertGroup, Task, content_hash
from promptrl_plugin.suites.registry import load_suite
from promptrl_plugin.suites.splits import fingerprint

FEATURES, ACTIONS = ("a.x", "a.y", "b.z"), ("greedy", "plan", "stop", "revert")


def task(id_: str, text: str) -> Task:
    tests = AssertGroup(("assert f(2) == 3",))
    return Task(id_, "demo", "mbpp", f'"""\n{text}\nassert f(2) == 3\n"""\n', "f", tests)


TRAIN = [
    task("Demo/1", "Write a function to count the vowels of a given sentence and return the number."),
    task("Demo/2", "Write a function to find the longest palindrome inside a list of strings."),
]
OTHER = task("Demo/9", "Write a function to merge overlapping intervals sorted by their starting point.")


def network() -> ActorCritic:
    generator = torch.Generator().manual_seed(0)
    net = ActorCritic(3, 4, PPOConfig(hidden_sizes=(8,)), generator)
    net.normalizer.update(torch.randn(50, 3, generator=generator) * 3 + 1)
    with torch.no_grad():
        for parameter in net.parameters():  # so that actions differ between observations
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net


def bundle() -> PolicyBundle:
    net = network()
    return PolicyBundle(
        backbone="tiny-coder",
        backbone_fingerprint="tiny-coder@abc/float32",
        embedder="all-minilm-l6-v2",
        observation=FEATURES,
        observation_version=1,
        actions=ACTIONS,
        action_digest="digest-1",
        network=net.spec(),
        weights=net.tensors(),
        projection_mean=np.linspace(0, 1, 6, dtype=np.float32),
        projection_components=np.eye(2, 6, dtype=np.float32),
        config=to_dict(TrainConfig()),
        train_suite="demo",
        train_suite_version="v1",
        train_hashes=tuple(t.content_hash for t in TRAIN),
        train_fingerprints=tuple(fingerprint(t) for t in TRAIN),
        example_ids=("Demo/3",),
        example_hashes=(OTHER.content_hash,),
        metrics={"rollout/return": 0.5, "validation/solved": float("nan")},
        command="promptrl train --model tiny-coder",
    )


COMPATIBLE = {
    "backbone": "tiny-coder",
    "backbone_fingerprint": "tiny-coder@abc/float32",
    "action_digest": "digest-1",
    "observation": FEATURES,
    "observation_version": 1,
}


def test_round_trip(tmp_path: Path) -> None:
    made = bundle()
    loaded = PolicyBundle.load(made.save(tmp_path / "deep" / "bundle"))
    for field in dataclasses.fields(PolicyBundle):
        if field.name in ("weights", "projection_mean", "projection_components", "path", "metrics"):
            continue
        assert getattr(loaded, field.name) == getattr(made, field.name), field.name
    assert loaded.metrics == {"rollout/return": 0.5, "validation/solved": None}
    assert loaded.weights.keys() == made.weights.keys()
    assert all(np.array_equal(loaded.weights[k], v) for k, v in made.weights.items())
    assert np.array_equal(loaded.projection_mean, made.projection_mean)
    assert np.array_equal(loaded.projection_components, made.projection_components)
    assert loaded.content_hash == made.content_hash
    assert loaded.path == tmp_path / "deep" / "bundle"


def test_a_bundle_is_two_readable_files_and_no_task_text(tmp_path: Path) -> None:
    folder = bundle().save(tmp_path / "bundle")
    assert sorted(p.name for p in folder.iterdir()) == [MANIFEST, TENSORS]
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["schema"] == 1
    assert manifest["bundle"]["command"] == "promptrl train --model tiny-coder"
    assert "torch" in json.dumps(manifest["bundle"]["environment"])
    assert "palindrome" not in (folder / MANIFEST).read_text()


def test_the_loaded_policy_acts_like_the_trained_one_and_is_frozen(tmp_path: Path) -> None:
    net = network()
    loaded = PolicyBundle.load(bundle().save(tmp_path / "b"))
    rng = np.random.default_rng(1)
    observations = rng.normal(1.0, 3.0, size=(60, 3)).astype(np.float32)
    masks = rng.random((60, 4)) < 0.6
    masks[:, 0] = True
    wanted = net.act(observations, masks)
    assert len(set(wanted.tolist())) > 1
    act = loaded.policy()
    assert [act(o, m) for o, m in zip(observations, masks, strict=True)] == wanted.tolist()
    with pytest.raises(RuntimeError, match="frozen"):
        loaded.actor_critic().normalizer.update(torch.ones(1, 3))


def test_the_content_hash_tells_behaviour_apart_not_the_record_of_making() -> None:
    made = bundle()
    same = dataclasses.replace(made, created="2001-01-01T00:00:00+00:00", command="other", metrics={}, environment={})
    assert same.content_hash == made.content_hash
    weights = {**made.weights, "actor.0.bias": made.weights["actor.0.bias"] + 1e-6}
    changed = [
        {"weights": weights},
        {"action_digest": "digest-2"},
        {"train_hashes": ()},
        {"projection_mean": made.projection_mean + 1},
    ]
    hashes = {dataclasses.replace(made, **change).content_hash for change in changed} | {made.content_hash}
    assert len(hashes) == 5


def test_saving_again_replaces_the_bundle_as_a_whole(tmp_path: Path) -> None:
    folder = bundle().save(tmp_path / "b")
    dataclasses.replace(bundle(), backbone="second").save(folder)
    assert PolicyBundle.load(folder).backbone == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_a_failed_save_leaves_the_old_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bundle().save(tmp_path / "b")
    real = __import__("os").rename

    def failing(source: Path, target: Path) -> None:
        if ".new-" in str(source):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr("promptrl_plugin.agent.bundle_files.os.rename", failing)
    with pytest.raises(BundleError, match="No space left"):
        dataclasses.replace(bundle(), backbone="second").save(folder)
    assert PolicyBundle.load(folder).backbone == "tiny-coder"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_saving_never_replaces_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(BundleError, match="is no policy bundle"):
        bundle().save(tmp_path)
    with pytest.raises(BundleError, match="is no policy bundle"):
        bundle().save(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    PolicyBundle.load(bundle().save(tmp_path / "empty"))


def edit(folder: Path, change: dict[str, object], rehash: bool = False) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest = {**manifest, **change}
    if rehash:
        del manifest["sha256"]
        manifest["sha256"] = content_hash(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_tampering_with_either_file_is_noticed(tmp_path: Path) -> None:
    folder = bundle().save(tmp_path / "b")
    manifest, tensors = (folder / MANIFEST).read_text(), (folder / TENSORS).read_bytes()

    (folder / MANIFEST).write_text(manifest.replace("digest-1", "digest-2"))
    with pytest.raises(BundleError, match="hash mismatch"):
        PolicyBundle.load(folder)

    stripped = json.loads(manifest)["bundle"] | {"train_hashes": [], "train_fingerprints": []}
    edit(folder, {"bundle": stripped})
    with pytest.raises(BundleError, match="hash mismatch"):
        PolicyBundle.load(folder)

    (folder / MANIFEST).write_text(manifest)
    (folder / TENSORS).write_bytes(tensors[:-1] + bytes([tensors[-1] ^ 1]))
    with pytest.raises(BundleError, match="hash mismatch"):
        PolicyBundle.load(folder)

    (folder / TENSORS).write_bytes(tensors)
    PolicyBundle.load(folder)


def test_torn_missing_and_newer_bundles_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no policy bundle at .*promptrl train"):
        PolicyBundle.load(tmp_path / "absent")

    folder = bundle().save(tmp_path / "b")
    manifest, tensors = (folder / MANIFEST).read_bytes(), (folder / TENSORS).read_bytes()
    for content in (manifest[: len(manifest) // 2], b"[1]", b"\xff", b""):
        (folder / MANIFEST).write_bytes(content)
        with pytest.raises(BundleError, match=r"manifest.json is missing or damaged; .*promptrl train"):
            PolicyBundle.load(folder)
    (folder / MANIFEST).write_bytes(manifest)
    (folder / TENSORS).write_bytes(tensors[:100])
    with pytest.raises(BundleError, match="hash mismatch"):
        PolicyBundle.load(folder)
    (folder / TENSORS).unlink()
    with pytest.raises(BundleError, match=r"cannot read .*policy.safetensors"):
        PolicyBundle.load(folder)

    (folder / TENSORS).write_bytes(tensors)
    edit(folder, {"schema": 2})
    with pytest.raises(BundleError, match="newer than the 1 known here; upgrade"):
        PolicyBundle.load(folder)


def test_a_manifest_that_does_not_fit_its_tensors_or_fields_is_malformed(tmp_path: Path) -> None:
    folder = bundle().save(tmp_path / "b")
    fields = json.loads((folder / MANIFEST).read_text())["bundle"]
    missing = {k: v for k, v in fields.items() if k != "embedder"}
    for broken in (missing, {**fields, "surprise": 1}, {**fields, "actions": ["only"]}, {**fields, "network": {}}):
        edit(folder, {"bundle": broken}, rehash=True)
        with pytest.raises(BundleError, match="malformed"):
            PolicyBundle.load(folder)


def test_a_network_of_another_size_than_the_names_is_refused() -> None:
    with pytest.raises(ValueError, match="3 features and 4 actions"):
        dataclasses.replace(bundle(), observation=("only",))


def test_a_compatible_setting_is_accepted() -> None:
    bundle().check_compatible(**COMPATIBLE)
    bundle().check_compatible(**{**COMPATIBLE, "observation": list(FEATURES)})


def test_other_weights_of_the_model_are_worth_a_warning_other_numerics_are_not(
    recwarn: pytest.WarningsRecorder,
) -> None:
    bundle().check_compatible(**{**COMPATIBLE, "backbone_fingerprint": "tiny-coder@abc/bfloat16"})
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"tiny-coder@abc/float32, this is tiny-coder@def/float32"):
        bundle().check_compatible(**{**COMPATIBLE, "backbone_fingerprint": "tiny-coder@def/float32"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"backbone": "big", "backbone_fingerprint": "big@x"},
            r"for backbone tiny-coder \(tiny-coder@abc/float32\), not big \(big@x\)",
        ),
        ({"action_digest": "x"}, r"another action table \(4 actions: greedy, plan, stop, revert\)"),
        ({"observation": FEATURES[:2]}, r"another observation layout \(3 features, not 2\)"),
        ({"observation": ("a.x", "a.q", "b.z")}, r"another observation layout \(a.y, not a.q\)"),
        ({"observation_version": 2}, r"another observation layout \(another version\)"),
    ],
)
def test_what_does_not_fit_is_named_with_the_train_command(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    loaded = PolicyBundle.load(bundle().save(tmp_path / "b"))
    backbone = change.get("backbone", "tiny-coder")
    with pytest.raises(BundleError, match=f"^policy bundle .*/b .*{said}; .*promptrl train --model {backbone}$"):
        loaded.check_compatible(**{**COMPATIBLE, **change})


def test_a_task_that_trained_the_policy_is_refused_under_any_id(tmp_path: Path) -> None:
    loaded = PolicyBundle.load(bundle().save(tmp_path / "b"))
    renamed = dataclasses.replace(TRAIN[1], id="Another/77", prompt=TRAIN[1].prompt.upper().replace(" ", "  "))
    with pytest.raises(LeakageError, match=r"must not solve Another/77.*--split crossfit"):
        loaded.check_no_leak([renamed])
    with pytest.raises(LeakageError, match="Demo/9"):  # shown as an example
        loaded.check_no_leak([OTHER])


def test_a_near_duplicate_of_a_train_task_is_refused() -> None:
    near = task("Near/1", "Write a python function to count the vowels of a given sentence, and return the number!")
    with pytest.raises(LeakageError, match=r"Near/1.*Demo/1"):
        bundle().check_no_leak([near])


def test_a_near_duplicate_of_an_example_is_refused_by_the_same_rule() -> None:
    shown = load_suite("examples").tasks()
    near = dataclasses.replace(shown[4], id="Near/2", prompt=shown[4].prompt.replace("Write a", "Please write a good"))
    assert near.content_hash != shown[4].content_hash
    showing = dataclasses.replace(bundle(), example_hashes=tuple(t.content_hash for t in shown))
    with pytest.raises(LeakageError, match=rf"Near/2.*{shown[4].id}"):
        showing.check_no_leak([near])
    bundle().check_no_leak([near])  # its one example is another task
    instructed = {**showing.config, "learner": "gepa"}
    dataclasses.replace(showing, config=instructed).check_no_leak([near])  # an instruction shows no examples


def test_unrelated_tasks_are_not_refused() -> None:
    fresh = task("Fresh/1", "Write a function to rotate a square matrix by ninety degrees clockwise.")
    bundle().check_no_leak([fresh])


def test_a_run_folder_in_the_place_of_its_bundle_names_the_bundle(tmp_path: Path):
    bundle().save(tmp_path / "run" / "bundle")
    with pytest.raises(
        BundleError, match=r"is the folder of a training run; give the policy bundle in it: .*run/bundle$"
    ):
        PolicyBundle.load(tmp_path / "run")
