"""Judges every program of the shared collection, harms included; run it in the collection's own sandbox only.

``SCRATCH=folder safe.sh python kit_in_sandbox.py adversarial.jsonl MbppPlus.jsonl.gz`` prints one JSON object:
the verdicts, and what was left behind.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import time
from pathlib import Path
from typing import Any


def main(kit: Path) -> dict[str, Any]:
    from promptrl_plugin.checking.base import JudgeRequest
    from promptrl_plugin.checking.judge import IsolatedJudge
    from promptrl_plugin.config import JudgeConfig
    from promptrl_plugin.suites.evalplus import EvalPlusSuite

    scratch = Path(os.environ["SCRATCH"])
    canary, server = scratch / "canary", socket.create_server(("127.0.0.1", 0))
    canary.mkdir()
    (canary / "precious").write_text("precious")
    rows = [json.loads(line) for line in kit.read_text().splitlines()]
    hidden = EvalPlusSuite("mbpp").hidden()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with IsolatedJudge(JudgeConfig(workers=2)) as judge:
        judge.warm_up()
        layers = judge.layers()
        before, memory = _processes(), set(os.listdir("/dev/shm"))
        requests = [JudgeRequest(_filled(r, canary, server), (hidden[r["task_id"]].base,)) for r in rows]
        verdicts = judge.check(requests)
        for i, (row, (verdict,)) in enumerate(zip(rows, verdicts, strict=True)):
            if row["expected"] == "pass" and verdict is not None and verdict.failure == "timeout":
                (verdicts[i],) = judge.check([requests[i]])  # the machine may have been busy: once more, alone
        time.sleep(1)
        workers = {w.process.pid for w in judge._workers}
        after = _processes()
        left_limits = [resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in (os.getpid(), *workers)]
    server.setblocking(False)
    return {
        "verdicts": {r["id"]: str(v.status) for r, (v,) in zip(rows, verdicts, strict=True) if v is not None},
        "layers": [name for name, on, _ in layers if on],
        "connections": _connections(server),
        "canary": {p.name: p.read_text() for p in canary.iterdir()},
        "processes": sorted(after.items() - before.items()),
        "limits": all(limit == limits for limit in left_limits),
        "files": sorted(p.name for p in scratch.iterdir()),
        "shared memory": sorted(set(os.listdir("/dev/shm")) - memory),
    }


def _filled(row: dict[str, Any], canary: Path, server: socket.socket) -> str:
    text: str = row["solution"]
    return text.replace("@CANARY@", str(canary)).replace("@PORT@", str(server.getsockname()[1]))


def _connections(server: socket.socket) -> int:
    try:
        server.accept()
    except BlockingIOError:
        return 0
    return 1


def _processes() -> dict[int, str]:
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                found[int(folder.name)] = (folder / "comm").read_text().strip()
            except OSError:
                continue
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]))))
