"""Backend `command`: any program that reads a prompt on standard input and prints how it goes on."""

import os
import shlex
import subprocess as sp
from collections.abc import Sequence

from promptrl_plugin.backbones.base import OnProgress
from promptrl_plugin.errors import BackboneError
from promptrl_plugin.records import Completion, GenerationRequest


class CommandBackbone:
    """A `promptrl_plugin.backbones.base.Backbone`: one process a request, with the plain form of prompts."""

    chat, completes = False, True

    def __init__(self, name: str, *, dtype: str, base_url: str | None) -> None:
        self.name, self.fingerprint = name, f"{name}@command"  # name@version: what changes completions changes it

    def generate(
        self, requests: Sequence[GenerationRequest], on_progress: OnProgress | None = None
    ) -> list[Completion]:
        done = []
        for i, r in enumerate(requests):
            env = {**os.environ, "SEED": f"{r.seed}.{r.index}", "TEMPERATURE": str(r.decoding.temperature)}
            run = sp.run(shlex.split(self.name), input=r.prompt.plain, env=env, capture_output=True, text=True)
            if run.returncode:
                raise BackboneError(f"{self.name} ended with code {run.returncode}; run it by hand to see why")
            cut = min((at for s in r.prompt.plain_stop if (at := run.stdout.find(s)) >= 0), default=None)
            words = len(r.prompt.plain.split()), len(run.stdout[:cut].split())
            done.append(Completion(run.stdout[:cut], *words, finish_reason="stop", plain=True))
            if on_progress is not None:
                on_progress(i, done[i])  # from here on the cache has it
        return done

    def close(self) -> None:
        """Nothing to free."""
