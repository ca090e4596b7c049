"""Lets the tests of this folder import the environment's doubles."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "env"))
