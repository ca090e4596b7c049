"""Assert scripts, cut so that only the program's own expressions run beside the program.

``assert f(2) == [1, 2]`` is split into the *leaf* ``f(2)``, which the child evaluates and sends back as a
plain value, and the *frame* ``□ == [1, 2]``, which the comparer evaluates. The frame is interpreted here,
node by node, from a list of harmless operations and functions; whatever is not on it is part of a leaf.
So neither a lying ``__eq__`` nor a replaced builtin decides a test. Names of the frame's functions mean
Python's own (``set``, ``sorted``, ``math.isclose``, …), even where the program defines the same name.

A statement that is no single ``assert`` runs whole in the child; there only its exception counts.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["AssertPlan", "LeafError", "plan_assert"]

_MAX_BITS = 1_000_000  # of an integer, and items of a sequence, that the frame may make


class LeafError(Exception):
    """Raised when the frame needs a leaf whose evaluation failed in the child."""


@dataclass(frozen=True, slots=True)
class AssertPlan:
    """One assert statement, split.

    Attributes:
        source: The statement as it was given.
        leaves: Expressions for the child; None when the statement must run there whole.
        frame: What remains, with the name ``_leaf_N`` for leaf N.
    """

    source: str
    leaves: tuple[str, ...] | None
    frame: ast.expr | None = None

    def holds(self, values: Sequence[Any]) -> bool:
        """Truth of the assertion, given a value (or an exception to raise) for every leaf.

        Raises:
            LeafError: It depends on a leaf that failed.
            Exception: Whatever the frame's operations raise on these values.
        """
        assert self.frame is not None
        return bool(_value(self.frame, values))

    def wanted(self) -> Any:
        """The other side of ``leaf == constant``, for the reader of a failure.

        Raises:
            LookupError: The assertion is of another form.
        """
        frame = self.frame
        if isinstance(frame, ast.Compare) and len(frame.ops) == 1 and isinstance(frame.ops[0], ast.Eq):
            left, right = frame.left, frame.comparators[0]
            if isinstance(left, ast.Name) and not any(isinstance(n, ast.Name) for n in ast.walk(right)):
                return _value(right, ())
        raise LookupError


def plan_assert(source: str) -> AssertPlan:
    """Split one assert statement; anything else is left whole."""
    try:
        body = ast.parse(source.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return AssertPlan(source, None)
    if len(body) != 1 or not isinstance(body[0], ast.Assert):
        return AssertPlan(source, None)
    test = body[0].test
    splitter = _Splitter(_FUNCTIONS)
    frame = splitter.split(test)
    if not splitter.leaves:
        # The program would not matter; so it is the program that defines such a name (Mbpp/126: `sum`).
        called = {n.func.id for n in ast.walk(test) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        splitter = _Splitter({k: v for k, v in _FUNCTIONS.items() if k not in called})
        frame = splitter.split(test)
    return AssertPlan(source, tuple(splitter.leaves), frame)


@dataclass
class _Splitter:
    """Takes the leaves out of an expression.

    Attributes:
        functions: Names that mean Python's own functions.
        leaves: Source of the leaves found so far.
    """

    functions: Mapping[str, Callable[..., Any]]
    leaves: list[str] = field(default_factory=list)

    def split(self, node: ast.expr) -> ast.expr:
        """Copy of `node` in which every subexpression that the frame may not evaluate is a leaf's name."""
        match node:
            case ast.Constant():
                return node
            case ast.Name(id=name) if name in _TYPES:
                return node
            case ast.Attribute(value=ast.Name(id="math"), attr=name) if name in _MATH_CONSTANTS:
                return node
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
                return ast.UnaryOp(op, self.split(operand))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return ast.BinOp(self.split(left), op, self.split(right))
            case ast.BoolOp(op=op, values=values):
                return ast.BoolOp(op, self._all(values))
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                return ast.Compare(self.split(left), ops, self._all(comparators))
            case ast.List(elts=elts) | ast.Tuple(elts=elts) | ast.Set(elts=elts) if not _starred(elts):
                return type(node)(self._all(elts))
            case ast.Dict(keys=keys, values=values) if None not in keys:
                return ast.Dict(list(self._all([k for k in keys if k])), self._all(values))
            case ast.Call(func=func, args=args, keywords=named) if self._is_frame_call(node):
                keywords = [ast.keyword(k.arg, self.split(k.value)) for k in named]
                return ast.Call(func, self._all(args), keywords)
        self.leaves.append(ast.unparse(node))
        return ast.Name(f"_leaf_{len(self.leaves) - 1}")

    def _all(self, nodes: Sequence[ast.expr]) -> list[ast.expr]:
        return [self.split(n) for n in nodes]

    def _is_frame_call(self, node: ast.Call) -> bool:
        if isinstance(node.func, ast.Name) and node.func.id not in self.functions:
            return False
        known = _function(node.func) is not None and not _starred(node.args)
        return known and all(k.arg in _KEYWORDS for k in node.keywords)


def _starred(nodes: Sequence[ast.expr]) -> bool:
    return any(isinstance(n, ast.Starred) for n in nodes)


def _function(func: ast.expr) -> Callable[..., Any] | None:
    match func:
        case ast.Name(id=name):
            return _FUNCTIONS.get(name)
        case ast.Attribute(value=ast.Name(id="math"), attr=name):
            return _MATH.get(name)
    return None


def _value(node: ast.expr, leaves: Sequence[Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name) if name in _TYPES:
            return _TYPES[name]
        case ast.Name(id=name):
            value = leaves[int(name.removeprefix("_leaf_"))]
            if isinstance(value, LeafError):
                raise value
            return value
        case ast.Attribute(attr=name):
            return _MATH_CONSTANTS[name]
        case ast.UnaryOp(op=op, operand=operand):
            return _UNARY[type(op)](_value(operand, leaves))
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_value(left, leaves), _value(right, leaves))
        case ast.BoolOp(op=op, values=values):
            return _bool_op(isinstance(op, ast.Or), values, leaves)
        case ast.Compare():
            return _compare(node, leaves)
        case ast.List(elts=elts):
            return [_value(e, leaves) for e in elts]
        case ast.Tuple(elts=elts):
            return tuple(_value(e, leaves) for e in elts)
        case ast.Set(elts=elts):
            return {_value(e, leaves) for e in elts}
        case ast.Dict(keys=keys, values=values):
            return {_value(k, leaves): _value(v, leaves) for k, v in zip(keys, values, strict=True) if k}
        case ast.Call(func=func, args=args, keywords=keywords):
            function = _function(func)
            assert function is not None
            named = {k.arg: _value(k.value, leaves) for k in keywords if k.arg}
            return function(*(_value(a, leaves) for a in args), **named)
    raise AssertionError(f"{type(node).__name__} is not part of a frame")


def _bool_op(stop_at: bool, values: Sequence[ast.expr], leaves: Sequence[Any]) -> Any:
    value: Any = None
    for node in values:
        value = _value(node, leaves)
        if bool(value) is stop_at:
            break
    return value


def _compare(node: ast.Compare, leaves: Sequence[Any]) -> Any:
    left = _value(node.left, leaves)
    result: Any = True
    for op, comparator in zip(node.ops, node.comparators, strict=True):
        right = _value(comparator, leaves)
        result = _COMPARE[type(op)](left, right)
        if len(node.ops) > 1 and not result:
            break
        left = right
    return result


def _times(a: Any, b: Any) -> Any:
    for x, y in ((a, b), (b, a)):
        size = x.bit_length() if isinstance(x, int) else len(x) if hasattr(x, "__len__") else 0
        if isinstance(y, int) and size * max(1, abs(y) if not isinstance(x, int) else 1) > _MAX_BITS:
            raise OverflowError("product too large")
    return a * b


def _power(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int) and a.bit_length() * max(0, b) > _MAX_BITS:
        raise OverflowError("power too large")
    return a**b


_UNARY: dict[type, Callable[[Any], Any]] = {ast.Not: operator.not_, ast.USub: operator.neg, ast.UAdd: operator.pos}
_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: _times,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: lambda a, b: operator.mod(a, b) if not isinstance(a, (str, bytes)) else _no_formatting(),
    ast.Pow: _power,
}
_COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}


def _no_formatting() -> Any:
    raise TypeError("formatting is not allowed here")


_TYPES: dict[str, Any] = {
    t.__name__: t for t in (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict)
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **_TYPES,
    **{f.__name__: f for f in (abs, all, any, isinstance, len, max, min, range, round, sorted, sum, type)},
}
_MATH: dict[str, Callable[..., Any]] = {
    n: getattr(math, n) for n in ("isclose", "fabs", "sqrt", "floor", "ceil", "isnan", "isinf", "radians", "degrees")
}
_MATH_CONSTANTS = {n: getattr(math, n) for n in ("pi", "e", "inf", "nan", "tau")}
_KEYWORDS = frozenset({"rel_tol", "abs_tol", "reverse", "ndigits"})
