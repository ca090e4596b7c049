"""docs/api.md is what docs/build_api.py prints now, and has every public name."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def build_api() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_api", DOCS / "build_api.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_api"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_script_prints_now(build_api: ModuleType) -> None:
    assert (DOCS / "api.md").read_text(encoding="utf-8") == build_api.render(), (
        "docstrings have changed: python docs/build_api.py > docs/api.md"
    )


def test_a_docstring_becomes_prose_and_lists(build_api: ModuleType) -> None:
    module = build_api.Module(
        "m",
        '__all__ = ["f", "N"]\n'
        "N: int = 3  #: a number\n"
        "def f(a: int, *, b: str = 'x') -> None:\n"
        '    """Do ``it``.\n\n    Args:\n        a: One\n            thing.\n        b: Other.\n\n'
        '    Raises:\n        ValueError: No.\n    """\n',
    )
    text = "\n\n".join(build_api._module(module))
    assert "```python\nf(a: int, *, b: str='x') -> None\n```" in text
    assert "Do `it`.\n\n*Args*\n\n- `a`: One thing.\n- `b`: Other.\n\n*Raises*\n\n- `ValueError`: No." in text
    assert text.endswith("### N\n\n```python\nN: int = 3  #: a number\n```\n\na number")


def test_a_name_of_all_that_is_not_there_is_an_error(build_api: ModuleType) -> None:
    with pytest.raises(ValueError, match="does not define g"):
        list(build_api._module(build_api.Module("m", '__all__ = ["g"]\n')))


def test_what_the_guide_to_plugins_names_is_on_the_page(build_api: ModuleType) -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    for name in ("Suite", "Backbone", "StreamingBackbone", "Operator", "Strategy", "StrategyContext", "PolicyBundle"):
        assert f"### class {name}\n" in page
    for name in ("load_suite", "load_backbone", "find_operator", "make_strategy", "solve_tasks"):
        assert f"### {name}\n" in page
