"""Solves a suite in a process of its own, so that the calling harness stays small and clean.

``python -P -m promptrl_plugin.harnesses.worker REQUEST OUTCOME``: both are JSON files; REQUEST holds the
flags of a command line, OUTCOME gets ``{"samples": path}`` or ``{"error": message}``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptrl_plugin.errors import PromptrlError, UserError

__all__ = ["main", "solve_apart"]


def solve_apart(flags: Mapping[str, Any]) -> Path:
    """Run `promptrl_plugin.harnesses.session.run` on `flags` in a child process; returns the samples file.

    Raises:
        UserError: What the child raised, or that it was killed.
        PromptrlError: The child failed for another reason; its traceback is on stderr.
    """
    with tempfile.TemporaryDirectory(prefix="promptrl-") as folder:
        request, outcome = Path(folder, "request.json"), Path(folder, "outcome.json")
        request.write_text(json.dumps(dict(flags), default=str))
        command = [sys.executable, "-P", "-m", "promptrl_plugin.harnesses.worker", str(request), str(outcome)]
        with subprocess.Popen(command) as child:
            try:
                code = child.wait()
            except KeyboardInterrupt:
                child.wait()  # it got the same signal, and finishes the line that it is writing
                raise
        if not outcome.exists():
            raise _death(code)
        result = json.loads(outcome.read_text())
    if "error" in result:
        raise UserError(result["error"])
    return Path(result["samples"])


def main() -> None:
    """Entry point of the child process."""
    from promptrl_plugin.harnesses.evalplus import in_evalplus_words, parse_flags
    from promptrl_plugin.harnesses.listener import TerminalListener
    from promptrl_plugin.harnesses.session import run

    request, outcome = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        samples = run(parse_flags(json.loads(request.read_text())), TerminalListener())
        result = {"samples": str(samples)}
    except UserError as e:
        result = {"error": in_evalplus_words(str(e))}
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    outcome.write_text(json.dumps(result))


def _death(code: int) -> PromptrlError:
    if code < 0:
        return UserError(
            f"the process that generates was killed by signal {-code} (out of memory?); "
            "try a smaller model; finished samples are kept"
        )
    return PromptrlError(f"the process that generates failed with exit code {code}; see the traceback above")


if __name__ == "__main__":
    main()
