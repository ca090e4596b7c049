"""The shipped starter suite: its schema, its splits, and that EvalPlus judges it as intended."""

import ast
import copy
import gzip
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from promptrl_plugin.errors import UnknownNameError, UserError
from promptrl_plugin.suites.base import Suite
from promptrl_plugin.suites.hidden import CallGroup
from promptrl_plugin.suites.splits import find_near_duplicates, fingerprint
from promptrl_plugin.suites.starter import StarterSuite, write_evalplus_file

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("PROMPTRL_SHARED") or HERE.parents[2] / "shared")
#: Keys of MBPP+ v0.2.0, in its order.
SCHEMA = (
    "task_id",
    "prompt",
    "entry_point",
    "canonical_solution",
    "base_input",
    "atol",
    "plus_input",
    "contract",
    "assertion",
)
#: Two task texts that share this much of their words (Jaccard) count as near-duplicates.
NEAR_DUPLICATE = 0.7
#: Entry points that EvalPlus compares in a way of their own (`evalplus.eval.unsafe_execute`).
SPECIAL_ORACLES = {"are_equivalent", "sum_div", "surface_Area", "digit_distance_nums"}


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Raw tasks of the whole suite by id, as the package ships them."""
    path = write_evalplus_file("all", tmp_path_factory.mktemp("starter") / "all.jsonl")
    return {task["task_id"]: task for task in read_jsonl(path)}


@pytest.fixture(scope="module")
def wrong():
    """A plausible wrong program for each task."""
    programs = read_jsonl(HERE / "starter_wrong.jsonl")
    assert len({p["task_id"] for p in programs}) == len(programs)
    return {p["task_id"]: p["solution"] for p in programs}


@pytest.fixture(scope="module")
def judged(tasks, wrong, tmp_path_factory):
    """What EvalPlus says of the canonical solution and of the wrong program of every task."""
    programs = {
        task_id: {"canonical": task["canonical_solution"], "wrong": wrong[task_id]} for task_id, task in tasks.items()
    }
    return evalplus(write_evalplus_file("all", tmp_path_factory.mktemp("judge") / "all.jsonl"), programs)


def evalplus(override, programs):
    run = subprocess.run(
        [sys.executable, str(HERE / "starter_judge.py")],
        input=json.dumps(programs),
        env={**os.environ, "MBPP_OVERRIDE_PATH": str(override), "PROMPTRL_NO_HOOK": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def visible_assert(task):
    return re.fullmatch(r'"""\n(.+)\n(assert .+)\n"""\n', task["prompt"])[2]


def sentence(task):
    """The prompt without quotes and visible test."""
    return re.fullmatch(r'"""\n(.+)\n(assert .+)\n"""\n', task["prompt"])[1]


def words(text):
    return set(re.findall(r"[a-z0-9]+", text.lower()))


def jaccard(left, right):
    return len(left & right) / len(left | right)


def run_contract(task, arguments):
    parameters = [a.arg for a in ast.parse(task["canonical_solution"]).body[0].args.args]
    namespace = {}
    exec(f"def contract({', '.join(parameters)}):{task['contract']}", namespace)
    namespace["contract"](*arguments)


# --- data -----------------------------------------------------------------------------------------


def test_schema_is_that_of_mbpp_plus(tasks):
    assert {tuple(task) for task in tasks.values()} == {SCHEMA}
    path = SHARED / "data" / "MbppPlus.jsonl.gz"
    if not path.exists():
        pytest.skip("no MBPP+ in ../shared/data (or $PROMPTRL_SHARED) to compare the schema with")
    with gzip.open(path, "rt") as f:
        real = [json.loads(line) for line in f]
    assert {tuple(task) for task in real} == {SCHEMA}
    for key in SCHEMA:
        assert {type(t[key]) for t in tasks.values()} <= {type(t[key]) for t in real}, key
    assert not {t["entry_point"] for t in tasks.values()} & {t["entry_point"] for t in real}


def test_form_of_each_task(tasks):
    for task_id, task in tasks.items():
        name, source = task["entry_point"], task["canonical_solution"]
        assert source.startswith("\ndef "), task_id
        assert source.endswith("\n"), task_id
        assert [n.name for n in ast.parse(source).body] == [name], task_id
        assert task["atol"] == 0
        lines = task["contract"].strip("\n").split("\n")
        assert all(line.strip().startswith("assert ") and line.endswith("# $_CONTRACT_$") for line in lines), task_id
        asserts = task["assertion"].strip("\n").split("\n")
        assert len(asserts) == len(task["base_input"]) >= 3, task_id
        assert visible_assert(task) in asserts, task_id
        for line, arguments in zip(asserts, task["base_input"], strict=True):
            call = ast.parse(line).body[0].test.left
            assert [call.func.id, *map(ast.literal_eval, call.args)] == [name, *arguments], task_id


def test_at_least_twenty_distinct_plus_inputs(tasks):
    for task_id, task in tasks.items():
        assert len(task["plus_input"]) >= 20, task_id
        keys = [json.dumps(arguments) for arguments in task["base_input"] + task["plus_input"]]
        assert len(set(keys)) == len(keys), task_id


def test_ids_and_names_trigger_none_of_evalplus_special_cases(tasks):
    from evalplus.data.mbpp import mbpp_deserialize_inputs, mbpp_serialize_inputs
    from evalplus.eval._special_oracle import MBPP_OUTPUT_NOT_NONE_TASKS, MBPP_OUTPUT_SET_EQ_TASKS

    special = SPECIAL_ORACLES.union(MBPP_OUTPUT_NOT_NONE_TASKS, MBPP_OUTPUT_SET_EQ_TASKS)
    for task_id, task in tasks.items():
        inputs = task["base_input"] + task["plus_input"]
        assert mbpp_deserialize_inputs(task_id, inputs) == inputs
        assert mbpp_serialize_inputs(task_id, inputs) == inputs
        assert task["entry_point"] not in special


def test_every_input_obeys_the_contract(tasks):
    for task_id, task in tasks.items():
        for arguments in task["base_input"] + task["plus_input"]:
            try:
                run_contract(task, arguments)
            except AssertionError:
                pytest.fail(f"{task_id}: {arguments} breaks the contract")


def test_references_are_quick_pure_and_right_on_the_written_asserts(tasks):
    for task_id, task in tasks.items():
        namespace = {}
        exec(task["prompt"] + task["canonical_solution"] + task["assertion"], namespace)
        function, inputs = namespace[task["entry_point"]], task["base_input"] + task["plus_input"]
        begin = time.process_time()
        outputs = [function(*arguments) for arguments in inputs]
        assert time.process_time() - begin < 0.05, task_id
        assert inputs == copy.deepcopy(task["base_input"] + task["plus_input"])
        assert outputs == [function(*arguments) for arguments in copy.deepcopy(inputs)], task_id
        assert len({repr(output) for output in outputs}) > 1, f"{task_id}: a constant would pass"


# --- splits ---------------------------------------------------------------------------------------


def test_fifty_train_and_thirty_test_tasks_of_all_levels():
    train, test, both = (StarterSuite(split) for split in ("train", "test", "all"))
    ids = {suite.name: [task.id for task in suite.tasks()] for suite in (train, test, both)}
    assert [len(v) for v in ids.values()] == [50, 30, 80]
    assert sorted(ids["starter-train"] + ids["starter-test"]) == ids["starter"]
    shares = [
        {level: n / len(suite.levels) for level, n in Counter(suite.levels.values()).items()} for suite in (train, test)
    ]
    for level in (1, 2, 3):
        assert shares[0][level] == pytest.approx(shares[1][level], abs=0.1)
        assert shares[0][level] > 0.25


def test_no_near_duplicates_in_the_suite_nor_between_its_splits(tasks):
    prints = {task_id: (words(sentence(task)), ast.dump(body(task))) for task_id, task in tasks.items()}
    for (left, (text, program)), (right, (other_text, other_program)) in itertools.combinations(prints.items(), 2):
        assert jaccard(text, other_text) < NEAR_DUPLICATE, (left, right)
        assert program != other_program, (left, right)


def test_splits_are_disjoint_by_content():
    """By the rule that bundles are refused with, references included."""
    train, test = (
        [fingerprint(task, suite.hidden()[task.id].reference) for task in suite.tasks()]
        for suite in (StarterSuite("train"), StarterSuite("test"))
    )
    assert find_near_duplicates(train, test) == []
    assert find_near_duplicates(train[:1], [*test, train[0]]), "the rule itself works"


def body(task):
    """The reference with its own names replaced in order of appearance, so that a renamed copy is equal."""
    tree, names = ast.parse(task["canonical_solution"]), {}
    fields = {ast.FunctionDef: "name", ast.arg: "arg", ast.Name: "id"}
    nodes = [node for node in ast.walk(tree) if type(node) in fields]
    for node in nodes:
        if not (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)):
            names.setdefault(getattr(node, fields[type(node)]), f"v{len(names)}")
    for node in nodes:
        name = getattr(node, fields[type(node)])
        setattr(node, fields[type(node)], names.get(name, name))  # what is not bound here is a builtin
    return tree


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # in MBPP's programs
def test_no_near_duplicate_of_an_mbpp_task(tasks):
    path = SHARED / "data" / "mbpp.jsonl"
    if not path.exists():
        pytest.skip("no MBPP in ../shared/data (or $PROMPTRL_SHARED) to compare with")
    mbpp = read_jsonl(path)
    texts = {task["task_id"]: words(task["text"]) for task in mbpp}
    programs = {ast.dump(body({"canonical_solution": task["code"]})): task["task_id"] for task in mbpp}
    for task_id, task in tasks.items():
        near = [other for other, text in texts.items() if jaccard(words(sentence(task)), text) >= NEAR_DUPLICATE]
        assert not near, f"{task_id} is near Mbpp/{near}"
        assert ast.dump(body(task)) not in programs, f"{task_id} has the reference of an MBPP task"


# --- judged by EvalPlus ---------------------------------------------------------------------------


def test_evalplus_loads_the_written_file_unchanged(tasks, judged):
    assert judged["problems"] == tasks
    assert list(judged["problems"]) == list(tasks)


def test_every_canonical_solution_passes(judged):
    verdicts = {task_id: labels["canonical"] for task_id, labels in judged["verdicts"].items()}
    assert len(verdicts) == 80
    assert {k: v for k, v in verdicts.items() if v != "pass"} == {}


def test_every_wrong_program_passes_the_visible_test_and_fails_a_hidden_one(tasks, wrong, judged):
    assert wrong.keys() == tasks.keys()
    for task_id, program in wrong.items():
        exec(program + "\n" + visible_assert(tasks[task_id]), {})
        assert judged["verdicts"][task_id]["wrong"] == "fail", task_id


def test_a_split_is_a_whole_data_set_for_evalplus(tasks, tmp_path):
    suite = StarterSuite("test")
    path = write_evalplus_file("test", tmp_path / "test.jsonl")
    problems = evalplus(path, {})["problems"]
    assert list(problems) == [task.id for task in suite.tasks()]
    assert problems == {task_id: tasks[task_id] for task_id in problems}


# --- the suite object -----------------------------------------------------------------------------


def test_is_a_suite_of_records(tasks):
    suite = StarterSuite()
    assert isinstance(suite, Suite)
    assert suite.evalplus_dataset == "mbpp"
    assert suite.hidden().keys() == {task.id for task in suite.tasks()} == tasks.keys()
    for task in suite.tasks():
        raw, hidden = tasks[task.id], suite.hidden()[task.id]
        assert (task.suite, task.dialect, task.prompt) == ("starter", "mbpp", raw["prompt"])
        assert task.visible.asserts == (visible_assert(raw),)
        assert hidden.reference == raw["prompt"] + raw["canonical_solution"]
        for group, kind in zip(hidden.groups, ("base", "plus"), strict=True):
            assert isinstance(group, CallGroup)
            assert (group.dataset, group.kind, group.entry_point) == ("mbpp", kind, task.entry_point)
            assert list(group.inputs) == raw[f"{kind}_input"]


def test_version_is_the_hash_of_the_data_whatever_the_split(tmp_path):
    path = write_evalplus_file("all", tmp_path / "all.jsonl")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    assert {StarterSuite(split).version for split in ("train", "test", "all")} == {digest}


def test_unknown_split_names_the_known_ones(tmp_path):
    with pytest.raises(UnknownNameError, match="'test'"):
        StarterSuite("tset")
    with pytest.raises(UnknownNameError):
        write_evalplus_file("validation", tmp_path / "x.jsonl")
    assert not list(tmp_path.iterdir())


def test_unwritable_file_is_a_users_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_evalplus_file("all", tmp_path / "file" / "all.jsonl")
