"""Text from outside, made harmless for where it is shown; on record it stays as it was sent.

Header names and values, error messages, model names and page titles come from servers, and names of targets from files
of others. A terminal acts on control characters and shows bidirectional marks as if they were not there; a spreadsheet
reads a cell that begins like a formula as one, quoted or not. HTML has jinja2's autoescape, JSON its own escapes.
"""

import re

# OWASP ASVS 5.0, 1.2.10, and what spreadsheets take for the same: the wide forms of the East, and a line's end.
BEGINS_A_FORMULA = tuple("=+-@\t\r\n\0\uff1d\uff0b\uff0d\uff20")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def printable(text: str, ascii_only: bool = False) -> str:
    """`text` with every character that could act on a terminal, or that it could not show, as an escape."""
    return "".join(c if c.isprintable() and (c.isascii() or not ascii_only) else _escape(ord(c)) for c in text)


def _escape(code: int) -> str:
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def json_printable(text: str) -> str:
    """JSON on one line, the same to whoever parses it, with what could act on a terminal as \\u escapes."""
    return "".join(c if c.isprintable() else _json_escape(c) for c in text)


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def csv_safe(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula: with an apostrophe before it where it could be one.

    Plain numbers stay as they are, also negative ones.
    """
    return f"'{cell}" if cell.startswith(BEGINS_A_FORMULA) and not NUMBER.fullmatch(cell) else cell
