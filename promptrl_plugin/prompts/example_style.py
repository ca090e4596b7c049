"""Show a solved task in the style of the task at hand.

MBPP tasks are a docstring with asserts; HumanEval tasks are a signature with a docstring and doctests; APPS tasks are
a statement in a frame of words.
A model copies the style of what it is shown, so the examples take on that of the task.
"""

from __future__ import annotations

import ast
import functools
import re
import textwrap

from promptrl_plugin.prompts.apps_text import as_question, is_apps
from promptrl_plugin.prompts.source import parsed
from promptrl_plugin.prompts.state import Example

__all__ = ["in_style", "plain_form"]


@functools.lru_cache(maxsize=4096)
def in_style(example: Example, dialect: str) -> Example:
    """`example` in the style of `dialect`; as it is where it cannot be converted or already fits."""
    if dialect == "apps" and not is_apps(example.prompt):
        body = example.prompt.strip()
        body = body.strip("\"'") if _is_docstring_only(body) else body
        return Example(example.task_id, as_question(body), example.program)
    if dialect != "humaneval" or not _is_docstring_only(example.prompt):
        return example
    return _as_humaneval(example) or example


def plain_form(example: Example) -> str:
    """Prompt and program as one piece of source, for a model that completes text."""
    if is_apps(example.prompt):
        return f"{example.prompt}{example.program.strip()}"
    if _is_docstring_only(example.prompt):
        return f"{example.prompt.strip()}\n{example.program.strip()}"
    return example.program.strip()  # a signature-style program repeats signature and docstring


def _is_docstring_only(prompt: str) -> bool:
    return prompt.lstrip().startswith(('"""', "'''"))


def _as_humaneval(example: Example) -> Example | None:
    """Put an MBPP example's description and assert into its function as docstring and doctest."""
    body = example.prompt.strip().strip("\"'").strip().splitlines()
    asserts = [line for line in body if line.startswith("assert")]
    prose = "\n".join(line for line in body if not line.startswith("assert"))
    tree, tests = parsed(example.program), parsed("\n".join(asserts))
    if tree is None or tests is None:
        return None
    names = {n.id for n in ast.walk(tests) if isinstance(n, ast.Name)}
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in names]
    if not functions or functions[-1] is not tree.body[-1]:  # what follows the function would be lost
        return None
    lines = example.program.splitlines()
    first = functions[-1].body[0]
    if first.lineno == functions[-1].lineno:
        return None
    indent = " " * first.col_offset
    examples = "\n".join(_doctest(a) for a in asserts)
    # escaped once more, since the MBPP prompt's text becomes the text of another literal
    docstring = textwrap.indent(f'""" {prose.strip()}\n{examples}\n"""', indent)
    head = "\n".join(lines[: first.lineno - 1]).rstrip()
    prompt = f"{head}\n{docstring}\n"
    program = f"{prompt}{chr(10).join(lines[first.lineno - 1 :])}"
    return Example(example.task_id, prompt, program) if parsed(program) else None


def _doctest(source: str) -> str:
    """``assert f(x) == y`` as ``>>> f(x)`` and ``y``; another assert as its test and ``True``."""
    test = re.sub(r"^assert\s*", "", source.strip())
    tree = parsed(test)
    node = tree.body[0].value if tree and len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr) else None
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq):
        return f">>> {ast.unparse(node.left)}\n{ast.unparse(node.comparators[0])}"
    return f">>> {test}\nTrue"
