#!/usr/bin/env bash
# Run the tests of the hooks on the lowest releases of the harnesses that pyproject.toml admits; the newest
# are what `make test` runs on. The lowest go into a folder in front of the environment's own packages, with
# the releases of transformers and datasets of their time (lm-eval 0.4.9 does not import on transformers 5).
# EvalPlus has one release in the range, so there is nothing to lay over it.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-.venv/bin/python}"
overlay="$(mktemp -d)"
trap 'rm -rf "$overlay"' EXIT

"$python" -m pip install --quiet --no-deps --target "$overlay" \
  "lm-eval==0.4.9" "transformers==4.57.*" "tokenizers>=0.22,<0.23" "huggingface_hub<1" "datasets==4.0.*" \
  peft jsonlines word2number

PYTHONPATH="$overlay" "$python" -c '
import importlib.metadata, lm_eval
assert lm_eval.__version__ == "0.4.9", lm_eval.__file__
print("evalplus", importlib.metadata.version("evalplus"), "- lm-eval", lm_eval.__version__)'
PYTHONPATH="$overlay" "$python" -m pytest -q tests/harnesses/test_lm_task.py tests/harnesses/test_lm_backbone.py
