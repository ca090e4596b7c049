#!/usr/bin/env python3
"""Useful tokens a second on MBPP+ prompts: EvalPlus's hf path, static batches, promptrl, in one run.

    python benchmarks/generation.py [--models smollm2-135m-instruct …] [--limit 96] [--rounds 3] [--out FILE]

Greedy, EvalPlus's prompt and limit of 768 new tokens. A token is useful if it is part of the completion up to
its stop string. Sides, one after the other in each round (the order turns from round to round):

* evalplus: `evalplus.provider.hf` at its defaults (batch size 1, bfloat16, eager attention), on the first
  `--evalplus-limit` prompts, since it is slow. Its stop criteria pile up from call to call and truncate later
  completions (README); here they are taken off after each call, which only helps it.
* static 32: `transformers.generate` on batches of 32 in the given order, padded on the left, bfloat16, the
  same stop strings.
* promptrl bfloat16, promptrl int8: `TransformersBackbone`.
* promptrl bfloat16 undrafted: without draft tokens (`slack=0`), which fill the passes over few sequences.

`--sides` takes some of them only; each prompt is one generation, so `--limit 8` tells about few at once.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from promptrl_plugin.backbones import chat
from promptrl_plugin.backbones.loading import load_tokenizer, locate
from promptrl_plugin.backbones.models import resolve
from promptrl_plugin.backbones.transformers import TransformersBackbone
from promptrl_plugin.prompts.state import PromptState
from promptrl_plugin.prompts.template import CHAT_STOP, render
from promptrl_plugin.records import Decoding, GenerationRequest, Task
from promptrl_plugin.suites.registry import load_suite

MAX_NEW_TOKENS = 768
STATIC = 32
SIDES = ("evalplus", f"static {STATIC}", "promptrl bfloat16", "promptrl int8", "promptrl bfloat16 undrafted")

Side = Callable[[Sequence[Task]], list[str]]  #: completions of prompts


def evalplus_side(folder: str) -> Side:
    from evalplus.provider.hf import HuggingFaceDecoder

    from promptrl_plugin.prompts.template import INSTRUCTION_PREFIX, RESPONSE_PREFIX

    decoder = HuggingFaceDecoder(
        folder, "mbpp", temperature=0.0, max_new_tokens=MAX_NEW_TOKENS,
        instruction_prefix=INSTRUCTION_PREFIX, response_prefix=RESPONSE_PREFIX,
    )  # fmt: skip

    def complete(tasks: Sequence[Task]) -> list[str]:
        texts = []
        for task in tasks:
            generate = decoder.model.generate
            texts += decoder.codegen(task.prompt.strip() + "\n", do_sample=False, num_samples=1)
            decoder.model.generate = generate
        return texts

    return complete


def static_side(folder: str) -> Side:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)

    @torch.inference_mode()
    def complete(tasks: Sequence[Task]) -> list[str]:
        texts = []
        for start in range(0, len(tasks), STATIC):
            prompts = [chat.render(tokenizer, render(t, PromptState.initial(t))) for t in tasks[start : start + STATIC]]
            batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
            out = model.generate(
                **batch, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, tokenizer=tokenizer,
                stop_strings=list(CHAT_STOP), pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
            texts += tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        return [cut(text) for text in texts]

    return complete


def promptrl_side(folder: str, dtype: str, slack: int | None = None) -> Side:
    backbone = TransformersBackbone(folder, dtype=dtype, slack=slack)

    def complete(tasks: Sequence[Task]) -> list[str]:
        decoding = Decoding(0.0, 1.0, MAX_NEW_TOKENS)
        requests = [GenerationRequest(render(t, PromptState.initial(t)), decoding) for t in tasks]
        return [c.text for c in backbone.generate(requests)]

    return complete


def cut(text: str) -> str:
    return text[: min((i for s in CHAT_STOP if (i := text.find(s)) >= 0), default=len(text))]


def measure(model: str, args: argparse.Namespace) -> dict[str, Any]:
    folder = locate(resolve(model)).path
    tokenizer = load_tokenizer(locate(folder))
    every = load_suite("mbpp").tasks()
    tasks, first = every[: args.limit], every[-2:]
    sides: dict[str, tuple[Callable[[], Side], int]] = {
        "evalplus": (lambda: evalplus_side(folder), args.evalplus_limit),
        f"static {STATIC}": (lambda: static_side(folder), args.limit),
        "promptrl bfloat16": (lambda: promptrl_side(folder, "bfloat16"), args.limit),
        "promptrl int8": (lambda: promptrl_side(folder, "int8"), args.limit),
        "promptrl bfloat16 undrafted": (lambda: promptrl_side(folder, "bfloat16", slack=0), args.limit),
    }
    sides = {name: side for name, side in sides.items() if name in args.sides}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(args.rounds):
        order = list(sides)[number % len(sides) :] + list(sides)[: number % len(sides)]
        for name in order:
            make, limit = sides[name]
            rates[name].append(rate(make(), first, tasks[:limit], tokenizer))
            gc.collect()
            print(f"{model} round {number + 1} {name}: {rates[name][-1]:.1f} useful tokens/s", file=sys.stderr)
    ours = [name for name in ("promptrl bfloat16", "promptrl int8") if name in sides]
    others = [name for name in sides if name not in ours]
    return {
        "model": model,
        "tokens_a_second": {name: statistics.median(r) for name, r in rates.items()},
        "ratio": {
            f"{mine} / {other}": statistics.median(a / b for a, b in zip(rates[mine], rates[other], strict=True))
            for mine in ours
            for other in others
        },
    }


def rate(side: Side, first: Sequence[Task], tasks: Sequence[Task], tokenizer: Any) -> float:
    side(first)  # whatever is set up at the first call
    begin = time.perf_counter()
    texts = side(tasks)
    seconds = time.perf_counter() - begin
    return sum(len(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in texts) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct"])
    parser.add_argument("--limit", type=int, default=96)
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES, metavar="SIDE")
    parser.add_argument("--evalplus-limit", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    results = []
    for model in args.models:
        results.append(measure(model, args))
        print(f"\n{model}: useful tokens a second (median of {args.rounds})")
        for name, value in results[-1]["tokens_a_second"].items():
            print(f"  {name:28s} {value:8.1f}")
        for name, value in results[-1]["ratio"].items():
            print(f"  {name:50s} {value:6.1f}x")
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        settings = {"limit": args.limit, "evalplus_limit": args.evalplus_limit, "rounds": args.rounds}
        cores = len(os.sched_getaffinity(0))
        args.out.write_text(json.dumps({"cores": cores, **settings, "models": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
