"""The part of Kusto's query language that questions about a load test's logs are asked in, over rows in memory. Pure.

A query is a table's name, then any of: where, project (a, b = c), take or limit, order or sort by, count, and
summarize count() by. Predicates have and, or, not(), parentheses, == != < <= > >= =~, in, has, contains, between,
and the values string, number, bool, timespan, datetime(), now(), ago() and tostring() of a dynamic. Comments are
skipped.

Facts.   Documented: a string is never null, other types may be; null against a value is unequal, and any other
         comparison with null is neither true nor false. `=~`, `has` and `contains` ignore case; `has` wants whole
         terms, which are runs of letters and digits. `between` has both its ends. `order by` is descending unless
         told, and nulls are the smallest. Strings compare with strings only, and only for equality: a status that
         the log holds as a string is not equal to a number, it is an error. A count's column is `Count`, or `count_`.
         Observed: the texts of SYN0002, SEM0064 and SEM0100, with lines from 1 and positions from 0.
Decided. Columns are typed before rows are looked at, so that a wrong query is wrong on an empty table as well. What is
         not in the first paragraph is refused as SYN0002. Times are kept as ticks (100 ns since the year 1), as
         Kusto keeps them. `take` takes the first.
"""

import json
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple, TypeVar

Item = TypeVar("Item")
Row = Mapping[str, Any]

_SECOND = 10_000_000
_UNITS = {"d": 86400 * _SECOND, "h": 3600 * _SECOND, "m": 60 * _SECOND, "s": _SECOND, "ms": _SECOND // 1000}
_YEAR_1 = datetime(1, 1, 1, tzinfo=UTC)
_SEVENTH_DIGIT = re.compile(r"\.\d{6}(\d)")

_TOKEN = re.compile(
    r"""
      (?P<blank>\s+|//[^\n]*)
    | (?P<datetime>datetime\s*\([^)]*\))
    | (?P<timespan>\d+(?:\.\d+)?(?:d|h|ms?|s)\b)
    | (?P<number>\d+(?:\.\d+)?\b)
    | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    | (?P<name>[A-Za-z_]\w*)
    | (?P<symbol>==|!=|=~|>=|<=|\.\.|[|(),=<>-])
    """,
    re.VERBOSE | re.ASCII,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}
_END = "<EOF>"

_FAMILIES = {"int": "number", "long": "number", "real": "number"}
_ORDERED = ("number", "datetime", "timespan")


class Column(NamedTuple):
    """`type` is Kusto's: bool, datetime, dynamic, int, long, real or string."""

    name: str
    type: str


class Table(NamedTuple):
    """Rows hold datetimes as ISO 8601 text, and dynamics as what JSON can write; a column may be absent in a row."""

    columns: tuple[Column, ...]
    rows: Iterable[Row]


class KqlError(Exception):
    """`line` counts from 1, `position` from 0; a `code` that begins with SYN is of the syntax, else of the meaning."""

    def __init__(self, code: str, message: str, token: "_Token") -> None:
        super().__init__(message)
        self.code = code
        self.token = token.text
        self.line = token.line
        self.position = token.position


class _Token(NamedTuple):
    kind: str
    text: str
    line: int
    position: int


class _Expression(NamedTuple):
    type: str
    value: Callable[[Row], Any]
    token: _Token

    @property
    def family(self) -> str:
        return _FAMILIES.get(self.type, self.type)


def run(query: str, tables: Mapping[str, Table], now: datetime) -> tuple[list[Column], list[list[Any]]]:
    """The columns and the rows, with datetimes as ISO 8601 text and dynamics as JSON text. Raises `KqlError`."""
    tokens = list(_tokens(query))
    try:
        table = _Parser(tokens, tables, _ticks_of(now)).query()
    except RecursionError:
        raise KqlError("SYN0002", "The query is nested too deeply", tokens[0]) from None
    return list(table.columns), [[_written(row[name], kind) for name, kind in table.columns] for row in table.rows]


def ticks(text: str) -> int:
    """Of an ISO 8601 time, which is UTC unless it says otherwise. Raises ValueError."""
    time = datetime.fromisoformat(text)
    seventh = _SEVENTH_DIGIT.search(text)
    return _ticks_of(time) + (int(seventh[1]) if seventh else 0)


def _ticks_of(time: datetime) -> int:
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return (aware - _YEAR_1) // timedelta(microseconds=1) * 10


def _text_of(at: int) -> str:
    """As short as the service writes it: without the zeros at the end of a second's fraction."""
    fraction = f".{at % _SECOND:07d}".rstrip("0").rstrip(".")
    return f"{(_YEAR_1 + timedelta(seconds=at // _SECOND)).isoformat()[:19]}{fraction}Z"


def _read(value: Any, kind: str) -> Any:
    if kind == "string":
        return "" if value is None else value
    return ticks(value) if kind == "datetime" and value is not None else value


def _written(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "datetime":
        return _text_of(value)
    return json.dumps(value, separators=(",", ":")) if kind == "dynamic" else value


def _tokens(query: str) -> Iterator[_Token]:
    at, line, begin = 0, 1, 0
    while at < len(query):
        match = _TOKEN.match(query, at)
        if match is None:
            raise _unreadable(_Token("symbol", query[at], line, at - begin))
        text, kind = match[0], match.lastgroup or ""
        if kind != "blank":
            yield _Token(kind, text, line, at - begin)
        at = match.end()
        if "\n" in text:
            line, begin = line + text.count("\n"), match.start() + text.rindex("\n") + 1
    yield _Token("end", _END, line, at - begin)


def _unreadable(token: _Token, hint: str = "") -> KqlError:
    return KqlError(
        "SYN0002", f"Query could not be parsed at '{token.text}' on line [{token.line},{token.position}]{hint}", token
    )


class _Parser:
    """Reads a query from left to right, and wraps the table's rows into what each operator leaves of them."""

    def __init__(self, tokens: list[_Token], tables: Mapping[str, Table], now: int) -> None:
        self._tokens = tokens
        self._at = 0
        self._tables = tables
        self._now = now
        self._operator = ""
        self._columns: dict[str, str] = {}
        self._operators: dict[str, Callable[[Iterable[Row]], Iterable[Row]]] = {
            "count": self._count,
            "limit": self._take,
            "order": self._order,
            "project": self._project,
            "sort": self._order,
            "summarize": self._summarize,
            "take": self._take,
            "where": self._where,
        }

    def query(self) -> Table:
        rows: Iterable[Row] = self._scan()
        while self._peek().kind != "end":
            self._expect("|")
            rows = self._apply(rows)
        return Table(tuple(Column(*column) for column in self._columns.items()), rows)

    def _peek(self) -> _Token:
        return self._tokens[self._at]

    def _next(self) -> _Token:
        token = self._peek()
        if token.kind != "end":
            self._at += 1
        return token

    def _accept(self, text: str) -> bool:
        found = self._peek().text == text
        if found:
            self._next()
        return found

    def _expect(self, text: str) -> None:
        token = self._next()
        if token.text != text:
            raise _unreadable(token, f": '{text}' should be there")

    def _kind(self, kind: str) -> _Token:
        token = self._next()
        if token.kind != kind:
            raise _unreadable(token, f": a {kind} should be there")
        return token

    def _scan(self) -> Iterator[Row]:
        token = self._kind("name")
        if token.text not in self._tables:
            operator_name = self._tokens[self._at + 1].text if self._peek().text == "|" else None
            where = f"'{operator_name}' operator: " if operator_name else ""
            raise KqlError(
                "SEM0100", f"{where}Failed to resolve table or column expression named '{token.text}'", token
            )
        table = self._tables[token.text]
        self._columns = dict(table.columns)
        columns = table.columns
        return ({name: _read(row.get(name), kind) for name, kind in columns} for row in table.rows)

    def _apply(self, rows: Iterable[Row]) -> Iterable[Row]:
        token = self._next()
        if token.text not in self._operators:
            raise _unreadable(token, f": the simulator knows the operators {', '.join(self._operators)}")
        self._operator = token.text
        return self._operators[token.text](rows)

    def _where(self, rows: Iterable[Row]) -> Iterable[Row]:
        condition = self._disjunction()
        if self._peek().text not in ("|", _END):
            raise _unreadable(self._peek())
        predicate = self._bool(condition)
        return (row for row in rows if predicate.value(row) is True)

    def _project(self, rows: Iterable[Row]) -> Iterable[Row]:
        sources: dict[str, str] = {}
        for target, source in self._list(self._projection):
            self._is_new(target, sources)
            sources[target.text] = source
        self._columns = {name: self._columns[source] for name, source in sources.items()}
        return ({name: row[source] for name, source in sources.items()} for row in rows)

    def _projection(self) -> tuple[_Token, str]:
        target = self._kind("name")
        if self._accept("="):
            return target, self._column(self._kind("name"))
        return target, self._column(target)

    def _take(self, rows: Iterable[Row]) -> Iterable[Row]:
        token = self._kind("number")
        if not token.text.isdigit():
            raise _unreadable(token)
        return islice(rows, int(token.text))

    def _order(self, rows: Iterable[Row]) -> Iterable[Row]:
        self._expect("by")
        keys = list(self._list(self._sort_key))
        return _sorted(rows, keys)

    def _sort_key(self) -> tuple[str, bool]:
        name = self._key()
        return name, self._accept("desc") or not self._accept("asc")

    def _count(self, rows: Iterable[Row]) -> Iterable[Row]:
        self._columns = {"Count": "long"}
        return ({"Count": sum(1 for _ in rows)} for _ in range(1))

    def _summarize(self, rows: Iterable[Row]) -> Iterable[Row]:
        token = self._kind("name")
        named = self._accept("=")
        function = self._kind("name") if named else token
        if function.text != "count":
            raise _unreadable(function, ": the simulator knows count()")
        self._expect("(")
        self._expect(")")
        keys = list(self._list(self._key)) if self._accept("by") else []
        name = token.text if named else "count_"
        if named:
            self._is_new(token, keys)
        self._columns = {**{key: self._columns[key] for key in keys}, name: "long"}
        return _grouped(rows, keys, name)

    def _list(self, item: Callable[[], Item]) -> Iterator[Item]:
        yield item()
        while self._accept(","):
            yield item()

    def _key(self) -> str:
        token = self._kind("name")
        name = self._column(token)
        if self._columns[name] == "dynamic":
            raise KqlError("SEM0001", f"'{self._operator}' operator: '{name}' is of the type dynamic", token)
        return name

    def _column(self, token: _Token) -> str:
        if token.text not in self._columns:
            text = f"'{self._operator}' operator: Failed to resolve column or scalar expression named '{token.text}'"
            raise KqlError("SEM0100", text, token)
        return token.text

    def _is_new(self, token: _Token, taken: Iterable[str]) -> None:
        if token.text in taken:
            text = f"'{self._operator}' operator: A column named '{token.text}' already exists"
            raise KqlError("SEM0022", text, token)

    def _bool(self, expression: _Expression) -> _Expression:
        if expression.type != "bool":
            text = f"'{self._operator}' operator: an expression of the type bool is expected, not {expression.type}"
            raise KqlError("SEM0001", text, expression.token)
        return expression

    def _disjunction(self) -> _Expression:
        return self._joined("or", self._conjunction, True)

    def _conjunction(self) -> _Expression:
        return self._joined("and", self._comparison, False)

    def _joined(self, word: str, operand: Callable[[], _Expression], decisive: bool) -> _Expression:
        operands = [operand()]
        while self._accept(word):
            operands.append(operand())
        if len(operands) == 1:
            return operands[0]
        values = [self._bool(each).value for each in operands]
        return _Expression("bool", lambda row: _decided([value(row) for value in values], decisive), operands[0].token)

    def _comparison(self) -> _Expression:
        left = self._operand()
        token = self._peek()
        if token.text in _COMPARISONS:
            self._next()
            return _compared(left, self._operand(), token)
        if self._accept("in"):
            return self._in(left, token)
        return self._between(left, token) if self._accept("between") else left

    def _in(self, left: _Expression, token: _Token) -> _Expression:
        self._expect("(")
        equal = [_compared(left, right, token._replace(text="==")).value for right in self._list(self._operand)]
        self._expect(")")
        return _Expression("bool", lambda row: any(value(row) is True for value in equal), left.token)

    def _between(self, left: _Expression, token: _Token) -> _Expression:
        self._expect("(")
        lowest = _compared(left, self._operand(), token._replace(text=">=")).value
        self._expect("..")
        highest = _compared(left, self._operand(), token._replace(text="<=")).value
        self._expect(")")
        return _Expression("bool", lambda row: _decided([lowest(row), highest(row)], False), left.token)

    def _operand(self) -> _Expression:
        token = self._next()
        if token.text == "(":
            inner = self._disjunction()
            self._expect(")")
            return inner
        if token.text == "-":
            return self._negative(token)
        if token.kind in _LITERALS:
            return _constant(*_LITERALS[token.kind](token), token)
        if token.kind != "name":
            raise _unreadable(token)
        return self._named(token)

    def _negative(self, minus: _Token) -> _Expression:
        token = self._next()
        if token.kind not in ("number", "timespan"):
            raise _unreadable(token)
        kind, value = _LITERALS[token.kind](token)
        return _constant(kind, -value, minus)

    def _named(self, token: _Token) -> _Expression:
        if token.text in ("true", "false"):
            return _constant("bool", token.text == "true", token)
        if self._peek().text == "(":
            return self._call(token)
        name = self._column(token)
        return _Expression(self._columns[name], operator.itemgetter(name), token)

    def _call(self, function: _Token) -> _Expression:
        self._expect("(")
        if function.text == "not":
            made = self._not(function)
        elif function.text == "tostring":
            made = _as_string(self._operand(), function)
        elif function.text == "now":
            made = _constant("datetime", self._now, function)
        elif function.text == "ago":
            made = _constant("datetime", self._now - _timespan(self._kind("timespan"))[1], function)
        else:
            raise _unreadable(function, ": the simulator knows the functions ago, datetime, not, now and tostring")
        self._expect(")")
        return made

    def _not(self, function: _Token) -> _Expression:
        value = self._bool(self._disjunction()).value
        return _Expression("bool", lambda row: _opposite(value(row)), function)


def _as_string(expression: _Expression, token: _Token) -> _Expression:
    if expression.type != "dynamic":
        raise _unreadable(token, ": the simulator knows tostring() of a dynamic")
    value = expression.value
    return _Expression("string", lambda row: "" if (found := value(row)) is None else json.dumps(found), token)


def _constant(kind: str, value: Any, token: _Token) -> _Expression:
    return _Expression(kind, lambda _: value, token)


def _string(token: _Token) -> tuple[str, str]:
    return "string", re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), token.text[1:-1])


def _number(token: _Token) -> tuple[str, int | float]:
    return ("real", float(token.text)) if "." in token.text else ("long", int(token.text))


def _timespan(token: _Token) -> tuple[str, int]:
    number = token.text.rstrip("dhms")
    return "timespan", round(float(number) * _UNITS[token.text.removeprefix(number)])


def _datetime(token: _Token) -> tuple[str, int]:
    literal = token.text.partition("(")[2].removesuffix(")").strip()
    try:
        return "datetime", ticks(literal.strip("\"'"))
    except ValueError:
        where = f"[line:position={token.line}:{token.position}]"
        raise KqlError("SYN0002", f"Failed to parse datetime literal: '{token.text}' {where}", token) from None


_LITERALS: dict[str, Callable[[_Token], tuple[str, Any]]] = {
    "datetime": _datetime,
    "number": _number,
    "string": _string,
    "timespan": _timespan,
}


def _has(text: str, term: str) -> bool:
    """Whether `text` has the term with no letter or digit right before or after it."""
    before = r"(?<![^\W_])" if term[:1].isalnum() else ""
    after = r"(?![^\W_])" if term[-1:].isalnum() else ""
    return re.search(f"{before}{re.escape(term)}{after}", text, re.IGNORECASE) is not None


def _contains(text: str, part: str) -> bool:
    return part.casefold() in text.casefold()


def _same(text: str, other: str) -> bool:
    return text.casefold() == other.casefold()


_EQUALITY: dict[str, Callable[[Any, Any], bool]] = {"==": operator.eq, "!=": operator.ne}
_RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_OF_STRINGS: dict[str, Callable[[str, str], bool]] = {"=~": _same, "contains": _contains, "has": _has}
_COMPARISONS = {**_EQUALITY, **_RELATIONS, **_OF_STRINGS}


def _compared(left: _Expression, right: _Expression, token: _Token) -> _Expression:
    compare = _COMPARISONS[token.text]
    if left.family != right.family or not _comparable(left.family, token.text):
        text = f"Cannot compare values of types {left.type} and {right.type}. Try adding explicit casts"
        raise KqlError("SEM0064", text, token)
    of_equality = token.text in _EQUALITY

    def value(row: Row) -> bool | None:
        one, other = left.value(row), right.value(row)
        if one is None or other is None:
            return compare(one, other) if of_equality and one is not other else None
        return compare(one, other)

    return _Expression("bool", value, left.token)


def _comparable(family: str, comparison: str) -> bool:
    if comparison in _RELATIONS:
        return family in _ORDERED
    return family == "string" if comparison in _OF_STRINGS else family != "dynamic"


def _decided(values: list[bool | None], decisive: bool) -> bool | None:
    """What `or` (True is decisive) or `and` (False is) makes of values of which some may be null."""
    if decisive in values:
        return decisive
    return None if None in values else not decisive


def _opposite(value: bool | None) -> bool | None:
    return None if value is None else not value


def _sorted(rows: Iterable[Row], keys: list[tuple[str, bool]]) -> Iterator[Row]:
    ordered = list(rows)
    for name, descending in reversed(keys):
        ordered.sort(key=lambda row: (row[name] is not None, row[name]), reverse=descending)
    yield from ordered


def _grouped(rows: Iterable[Row], keys: list[str], count: str) -> Iterator[Row]:
    groups = Counter(tuple(row[key] for key in keys) for row in rows)
    if not keys and not groups:
        groups[()] = 0
    for values, number in groups.items():
        yield {**dict(zip(keys, values, strict=True)), count: number}
