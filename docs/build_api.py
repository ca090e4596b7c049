"""Writes docs/api.md: what the public names of promptrl's modules are, from their docstrings.

    python docs/build_api.py > docs/api.md

The source is read, not imported, so neither torch nor a harness is needed, and the page is the same on every machine.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["MODULES", "render"]

TOP = Path(__file__).resolve().parents[1]
PACKAGE = "promptrl_plugin"

#: What plugins and scripts use, in the order of the page.
MODULES: dict[str, tuple[str, ...]] = {
    "Records, settings, errors": ("records", "groups", "config", "errors"),
    "Suites": ("suites.base", "suites.registry", "suites.hidden", "suites.splits", "suites.fingerprints"),
    "Prompts": (
        "prompts.state",
        "prompts.template",
        "prompts.programs",
        "prompts.operators",
        "prompts.operators.base",
        "prompts.action_space",
    ),
    "Backbones": ("backbones.base", "backbones.registry", "backbones.caching", "backbones.scripted"),
    "Checking": ("checking.base", "checking.judge", "checking.caching", "checking.results"),
    "Environment": (
        "env.context",
        "env.episode",
        "env.selection",
        "env.feedback",
        "env.scheduler",
        "env.observation",
        "env.reward",
        "env.rollout",
        "env.prompt_env",
        "env.vector_env",
    ),
    "Agent": ("agent.bundle", "agent.setup", "agent.parts", "agent.train", "agent.ablations"),
    "Strategies": ("strategies.base", "strategies.attempts", "strategies.registry", "strategies.runner"),
    "Runs and results": (
        "harnesses.options",
        "harnesses.session",
        "harnesses.listener",
        "harnesses.samples",
        "evaluation.judging",
        "evaluation.compare",
        "evaluation.statistics",
        "storage.cache",
        "storage.runs",
        "storage.jsonl",
    ),
}

_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields):$")
_LITERAL = re.compile(r"``(.+?)``")
_ITEM = re.compile(r"^(\*{0,2}\w[\w ,/.*]*): (.*)$")
Function = ast.FunctionDef | ast.AsyncFunctionDef
_WIDTH, _LINES = 100, 9


@dataclass(slots=True)
class Module:
    """One source file: its docstring, its public names, and where each comes from."""

    name: str
    text: str
    tree: ast.Module = field(init=False)

    def __post_init__(self) -> None:
        self.tree = ast.parse(self.text)

    @classmethod
    def read(cls, short: str) -> Module:
        base = TOP / PACKAGE / Path(*short.split("."))
        path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        return cls(f"{PACKAGE}.{short}", path.read_text(encoding="utf-8"))

    def public(self) -> list[str]:
        """The names of ``__all__``.

        Raises:
            ValueError: There is none, or it is no list of strings.
        """
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and _targets(node) == ["__all__"]:
                return [str(name) for name in ast.literal_eval(node.value)]
        raise ValueError(f"{self.name} has no __all__")

    def find(self, name: str) -> tuple[ast.stmt, ast.stmt | None]:
        """The statement that makes `name`, and the one after it.

        Raises:
            ValueError: No statement of the module's top level does.
        """
        body = self.tree.body
        for node, after in zip(body, [*body[1:], None], strict=True):
            if name in _targets(node):
                return node, after
        raise ValueError(f"{self.name} does not define {name}")

    def lines(self, node: ast.stmt) -> str:
        """A statement as it is written, with the comment beside it."""
        return "\n".join(self.text.splitlines()[node.lineno - 1 : node.end_lineno]).strip()

    def comment(self, node: ast.stmt) -> str:
        """The ``#:`` comment over a statement, or at its end."""
        lines = self.text.splitlines()
        above: list[str] = []
        at = node.lineno - 2
        while at >= 0 and lines[at].startswith("#:"):
            above.insert(0, lines[at][2:].strip())
            at -= 1
        _, mark, beside = lines[(node.end_lineno or node.lineno) - 1].partition("#:")
        return " ".join(above) or (beside.strip() if mark else "")


def _targets(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    if isinstance(node, ast.Assign):
        flat = [t for target in node.targets for t in (target.elts if isinstance(target, ast.Tuple) else [target])]
        return [t.id for t in flat if isinstance(t, ast.Name)]
    if isinstance(node, ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    return []


# --- one name --------------------------------------------------------------------------------------


def _entry(module: Module, name: str) -> Iterator[str]:
    node, after = module.find(name)
    if isinstance(node, ast.ImportFrom):
        yield f"### {name}"
        yield f"From `{node.module}`."
    elif isinstance(node, ast.ClassDef):
        yield f"### class {name}"
        yield _code(_class_head(module, node))
        yield from _docstring(node)
        for method in _methods(node):
            yield _code(_signature(method))
            yield from _docstring(method)
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield f"### {name}"
        yield _code(_signature(node))
        yield from _docstring(node)
    else:
        yield f"### {name}"
        yield _code(_constant(module, node))
        said = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
        text = module.comment(node) or (str(said) if isinstance(said, str) else "")
        if text:
            yield from _markdown(text)


def _constant(module: Module, node: ast.stmt) -> str:
    """The statement as it is written (so that ruff, which formats code in Markdown, too, leaves it so), if short."""
    text = module.lines(node)
    return text if text.count("\n") < _LINES else f"{text.partition(' = ')[0]} = …"


def _class_head(module: Module, node: ast.ClassDef) -> str:
    """The class with its fields, or how it is called."""
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    head = f"class {node.name}({bases})" if bases else f"class {node.name}"
    fields = [module.lines(s) for s in node.body if isinstance(s, ast.AnnAssign | ast.Assign) and not _private(s)]
    for member in node.body:
        if isinstance(member, Function) and member.name == "__init__":
            return f"{head}:\n    {_signature(member)}"
    return f"{head}:\n" + "\n".join(f"    {f}" for f in fields) if fields else head


def _private(node: ast.stmt) -> bool:
    return any(name.startswith("_") for name in _targets(node)) or not _targets(node)


def _methods(node: ast.ClassDef) -> list[Function]:
    """Public methods that say what they do."""
    methods = [m for m in node.body if isinstance(m, Function) and not m.name.startswith("_")]
    return [m for m in methods if ast.get_docstring(m)]


def _signature(node: Function) -> str:
    """``name(arguments) -> result``, one argument a line where it is long."""
    marks = {ast.unparse(d).partition("(")[0] for d in node.decorator_list}
    shown = "".join(f"@{mark}\n" for mark in sorted(marks & {"property", "classmethod", "staticmethod"}))
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    head = f"{node.name}({ast.unparse(node.args)}){result}"
    if len(head) > _WIDTH:
        pieces = ",\n    ".join(_arguments(node.args))
        head = f"{node.name}(\n    {pieces},\n){result}"
    return shown + head


def _arguments(args: ast.arguments) -> list[str]:
    positional = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(positional) - len(args.defaults)) + list(args.defaults)
    pieces = [_argument(a, d) for a, d in zip(positional, defaults, strict=True)]
    if args.vararg:
        pieces.append(f"*{ast.unparse(args.vararg)}")
    elif args.kwonlyargs:
        pieces.append("*")
    pieces += [_argument(a, d) for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    return [*pieces, f"**{ast.unparse(args.kwarg)}"] if args.kwarg else pieces


def _argument(arg: ast.arg, default: ast.expr | None) -> str:
    if default is None:
        return ast.unparse(arg)
    return f"{ast.unparse(arg)} = {ast.unparse(default)}"


# --- docstrings ------------------------------------------------------------------------------------


def _docstring(node: ast.ClassDef | Function) -> Iterator[str]:
    if text := ast.get_docstring(node):
        yield from _markdown(text)


def _markdown(text: str) -> Iterator[str]:
    """A Google-style docstring: prose as it is, sections as lists."""
    prose: list[str] = []
    lines = inspect.cleandoc(text).splitlines()
    while lines:
        line = lines.pop(0)
        if not _SECTION.match(line):
            prose.append(line)
            continue
        if block := _plain("\n".join(prose)):
            yield block
        prose = []
        body: list[str] = []
        while lines and (lines[0].startswith(" ") or not lines[0]):
            body.append(lines.pop(0))
        yield f"*{line[:-1]}*"
        yield _items(textwrap.dedent("\n".join(body)))
    if block := _plain("\n".join(prose)):
        yield block


def _items(text: str) -> str:
    """``name: text`` as a list, continuations joined; anything else as prose."""
    items: list[str] = []
    for line in text.splitlines():
        if found := _ITEM.match(line):
            items.append(f"- `{found[1]}`: {found[2]}")
        elif items and line.startswith(" "):
            items[-1] += f" {line.strip()}"
        elif line.strip():
            return _plain(text)
    return _plain("\n".join(items))


def _plain(text: str) -> str:
    return _LITERAL.sub(r"`\1`", text).strip()


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


# --- the page --------------------------------------------------------------------------------------


def render() -> str:
    """The whole page."""
    blocks = [
        "# API reference",
        "Made from the docstrings by `python docs/build_api.py > docs/api.md`; what plugins and scripts use.",
    ]
    for title, names in MODULES.items():
        links = ", ".join(f"[{name}](#{PACKAGE}{name.replace('.', '')})" for name in names)
        blocks.append(f"- **{title}**: {links}")
    page = "\n\n".join(blocks[:2]) + "\n\n" + "\n".join(blocks[2:]) + "\n"
    for names in MODULES.values():
        for name in names:
            page += "\n" + "\n\n".join(_module(Module.read(name))) + "\n"
    return page


def _module(module: Module) -> Iterator[str]:
    yield f"## {module.name}"
    if text := ast.get_docstring(module.tree):
        yield from _markdown(text)
    for name in module.public():
        yield from _entry(module, name)


if __name__ == "__main__":
    sys.stdout.write(render())
