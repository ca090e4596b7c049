"""The whole shared collection, harms included, in its own sandbox: right verdicts, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("PROMPTRL_SHARED") or Path(__file__).resolve().parents[3] / "shared")
KIT, TASKS = SHARED / "kit", SHARED / "data" / "MbppPlus.jsonl.gz"
OWN_SHARED_MEMORY = 'mount -t tmpfs tmpfs /dev/shm && exec "$@"'
"""Run inside of the sandbox's mount namespace, so that other processes' semaphores are not taken for leftovers."""

pytestmark = [
    pytest.mark.skipif(not (KIT / "adversarial.jsonl").is_file() or not TASKS.is_file(), reason=f"no kit in {KIT}"),
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"),
        reason="the sandbox of the harms needs root, unshare and ip",
    ),
]


def test_every_program_of_the_kit_is_judged_right_and_leaves_nothing(tmp_path: Path) -> None:
    sandbox = subprocess.run(
        ["sh", str(KIT / "safe.sh"), "sh", "-c", OWN_SHARED_MEMORY, "own", sys.executable,
         str(Path(__file__).with_name("kit_in_sandbox.py")), str(KIT / "adversarial.jsonl")],
        env={
            **os.environ, "SCRATCH": str(tmp_path), "TMPDIR": str(tmp_path), "PROMPTRL_CACHE": str(tmp_path / "cache"),
            "MBPP_OVERRIDE_PATH": str(TASKS), "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    if "unshare" in sandbox.stderr or "mount" in sandbox.stderr:
        pytest.skip(f"no sandbox here: {sandbox.stderr.strip()[:200]}")
    assert sandbox.returncode == 0, sandbox.stderr[-2000:]
    found = json.loads(sandbox.stdout.splitlines()[-1])
    rows = [json.loads(line) for line in (KIT / "adversarial.jsonl").read_text().splitlines()]
    passed = {r["id"]: found["verdicts"][r["id"]] == "pass" for r in rows}
    assert "error" not in found["verdicts"].values()
    assert passed == {r["id"]: r["expected"] == "pass" for r in rows}
    assert found["canary"] == {"precious": "precious"}
    assert found["connections"] == 0
    assert found["processes"] == []
    assert found["limits"], "the limits of the judge's own processes were changed"
    assert found["files"] == ["cache", "canary"], "files outside of the scratch folders"
    assert found["shared memory"] == []
