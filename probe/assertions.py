"""`--assert`: a small language over one call, for pipelines.

    h["x-ms-region"] == "Sweden Central" and status == 200 and ttft < 1.5

An expression is Python's syntax cut down to what is listed here: `and or not`, comparisons also in chains, `in`, plus,
minus, times, divided by, numbers, texts, lists of these, the names of `NAMES`, and `h["name"]`, a header in any case.
It is read with Python's own parser and walked; nothing of it is ever executed.

What was not observed is None. None compares with `==`, `!=` and `in`; where a number is needed the assertion fails and
says what was missing. A header's value is a number where it is compared with one ("88.4%" is 88.4).
"""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from probe.headers import describe, retry_after
from probe.headroom import headroom
from probe.record import ObservedCall

_LONGEST = 1000

_Value = bool | int | float | str | None | list[Any]


def _header(call: ObservedCall, name: str) -> str | None:
    values = call.header(name)
    return values[-1] if values else None


def _left(call: ObservedCall, name: str) -> float | None:
    return next((level.left for level in headroom(call.headers) if level.name == name), None)


def _utilisation(call: ObservedCall) -> float | None:
    return next((level.used * 100 for level in headroom(call.headers) if level.used is not None), None)


def _served_region(call: ObservedCall) -> str | None:
    readings = (describe(name, value) for name, value in call.headers)
    return next((str(one.parsed) for one in readings if one.unit == "serving region" and one.parsed), None)


# Each name with what it is, as the documentation has it.
NAMES: Mapping[str, tuple[str, Callable[[ObservedCall], _Value]]] = {
    "status": ("the HTTP status", lambda call: call.status_code),
    "outcome": ("what the call came to, such as `ok`, `throttled`, `auth`", lambda call: call.outcome),
    "error": ("the error's code or kind", lambda call: call.error_type),
    "stream": ("whether it streamed", lambda call: call.request_stream),
    "target": ("the target's name", lambda call: call.target),
    "gateway": ("`direct` or `apim`", lambda call: call.gateway),
    "region": ("`x-ms-region`", lambda call: _header(call, "x-ms-region")),
    "served_region": ("where the model ran, where a header says so", _served_region),
    "model": ("the model that answered", lambda call: _header(call, "x-ms-served-model") or call.response_model),
    "ttft": ("seconds to the first token; of streams only", lambda call: call.time_to_first_token),
    "headers_after": ("seconds to the reply's headers", lambda call: call.time_to_headers),
    "duration": ("seconds to the last byte", lambda call: call.duration),
    "input_tokens": ("billed", lambda call: call.input_tokens),
    "output_tokens": ("billed", lambda call: call.output_tokens),
    "cached_tokens": ("of the billed input", lambda call: call.cached_tokens),
    "remaining_requests": ("left of the service's limit", lambda call: _left(call, "requests")),
    "remaining_tokens": ("left of the service's limit", lambda call: _left(call, "tokens")),
    "utilisation": ("of a provisioned deployment, in percent", _utilisation),
    "retry_after": ("seconds to wait, as the reply says", lambda call: retry_after(call.headers)),
}
_OF_STREAMS = {"ttft"}

_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda one, many: one in many,
    ast.NotIn: lambda one, many: one not in many,
}
_COMPUTE: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class Verdict(msgspec.Struct, frozen=True):
    """`values` are those that the expression looked at, by what it calls them; `problem` is why it has no answer."""

    held: bool
    values: dict[str, Any]
    problem: str | None = None


class _NoAnswerError(Exception):
    pass


class Assertion:
    """One expression. Raises `ValueError`, in one line, where it is not of the language."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._tree = _parsed(text)
        for node in ast.walk(self._tree):
            _check(node)

    def applies_to(self, call: ObservedCall) -> bool:
        """Whether the call can be judged at all: a call that does not stream has no time to a first token."""
        names = {node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name)}
        return call.request_stream or not names & _OF_STREAMS

    def judge(self, call: ObservedCall) -> Verdict:
        values: dict[str, Any] = {}
        try:
            return Verdict(bool(_value(self._tree, call, values)), values)
        except _NoAnswerError as why:
            return Verdict(False, values, str(why))


def _parsed(text: str) -> ast.expr:
    if len(text) > _LONGEST:
        raise ValueError(f"longer than {_LONGEST} characters")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError("not an expression; such as: status == 200 and ttft < 2") from None


def _check(node: ast.AST) -> None:
    if isinstance(node, ast.Name) and node.id not in (*NAMES, "h"):
        raise ValueError(f'there is no {node.id!r}; there are: {", ".join(NAMES)}, and h["header"]')
    if isinstance(node, ast.Subscript) and not _is_header(node):
        raise ValueError('only h["header-name"] takes brackets')
    if isinstance(node, ast.Constant) and not isinstance(node.value, bool | int | float | str | None):
        raise ValueError(f"{node.value!r} is neither number nor text")
    if not isinstance(node, _ALLOWED):
        raise ValueError(f"{type(node).__name__} is not of the language; see `--assert` in docs/probe.md")


_ALLOWED = (
    *(ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.Compare, ast.BinOp),
    *(ast.Name, ast.Constant, ast.Subscript, ast.List, ast.Tuple, ast.Load, *_COMPARE, *_COMPUTE),
)


def _is_header(node: ast.Subscript) -> bool:
    named = isinstance(node.value, ast.Name) and node.value.id == "h"
    return named and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str)


def _value(node: ast.expr, call: ObservedCall, values: dict[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name(id="h"):
            raise _NoAnswerError('h alone is no value; write h["header-name"]')
        case ast.Name():
            return values.setdefault(node.id, NAMES[node.id][1](call))
        case ast.Subscript(slice=ast.Constant(value=str(name))):
            return values.setdefault(f'h["{name}"]', _header(call, name))
        case ast.List() | ast.Tuple():
            return [_value(one, call, values) for one in node.elts]
        case ast.BoolOp():
            whether = (bool(_value(one, call, values)) for one in node.values)
            return all(whether) if isinstance(node.op, ast.And) else any(whether)
        case ast.UnaryOp(op=ast.Not()):
            return not _value(node.operand, call, values)
        case ast.UnaryOp():
            return _computed(operator.sub, 0, _value(node.operand, call, values))
        case ast.BinOp():
            sides = _value(node.left, call, values), _value(node.right, call, values)
            return _computed(_COMPUTE[type(node.op)], *sides)
        case ast.Compare():
            return _compared(node, call, values)
    raise AssertionError(f"{type(node).__name__} passed the check")


def _compared(node: ast.Compare, call: ObservedCall, values: dict[str, Any]) -> bool:
    left = _value(node.left, call, values)
    for op, right_node in zip(node.ops, node.comparators, strict=True):
        right = _value(right_node, call, values)
        one, other = _alike(left, right)
        try:
            if not _COMPARE[type(op)](one, other):
                return False
        except TypeError:
            raise _NoAnswerError(_cannot(left, right)) from None
        left = right
    return True


def _alike(left: Any, right: Any) -> tuple[Any, Any]:
    """A text beside a number is read as one."""
    if _is_number(right) and isinstance(left, str):
        return _number(left), right
    if _is_number(left) and isinstance(right, str):
        return left, _number(right)
    return left, right


def _computed(operation: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    one, other = (_number(side) if isinstance(side, str) else side for side in (left, right))
    if not (_is_number(one) and _is_number(other)):
        raise _NoAnswerError(_cannot(left, right))
    try:
        return operation(one, other)
    except (ZeroDivisionError, OverflowError) as error:
        raise _NoAnswerError(str(error)) from None


def _cannot(left: Any, right: Any) -> str:
    return "was not observed" if left is None or right is None else f"{left!r} and {right!r} do not compare"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(text: str) -> float | str:
    try:
        return float(text.strip().removesuffix("%"))
    except ValueError:
        return text
