"""What the surfaces share in reading a request's body: the refusal, in the service's words, and the common checks.

Observed: a 400's `param` names the field (`messages[0]`, `max_tokens`), its `code` the kind of mistake
(`unsupported_parameter`, `invalid_value`). The wordings for types and ranges are those of OpenAI's own service, whose
parser Azure's is taken to be; of Azure itself few are on record.

A field that is null is absent.
"""

import json
from collections.abc import Mapping
from typing import Any

# Of an answer; no model says more.
MOST_TOKENS = 128_000


class InvalidRequestError(ValueError):
    """A 400 in the making: its message, the parameter that is wrong and the service's word for the mistake."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


def missing(param: str) -> InvalidRequestError:
    return InvalidRequestError(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def wrong_type(param: str, expected: str, value: object) -> InvalidRequestError:
    message = f"Invalid type for '{param}': expected {expected}, but got {_kind(value)} instead."
    return InvalidRequestError(message, param, "invalid_type")


def _kind(value: object) -> str:
    kinds: dict[type, str] = {
        str: "a string",
        bool: "a boolean",
        int: "an integer",
        float: "a decimal",
        list: "an array",
        dict: "an object",
    }
    return kinds.get(type(value), "null")


def wrong_value(param: str, value: object, supported: str) -> InvalidRequestError:
    shown = f"'{value}'" if isinstance(value, str) else json.dumps(value)
    return InvalidRequestError(f"Invalid value: {shown}. Supported values are: {supported}.", param, "invalid_value")


def string(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise wrong_type(name, "a string", value)
    return value


def flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise wrong_type(name, "a boolean", value)
    return value is True


def integer(fields: Mapping[str, Any], name: str, least: int, most: int = MOST_TOKENS) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong_type(name, "an integer", value)
    if value < least:
        message = (
            f"Invalid '{name}': integer below minimum value. Expected a value >= {least}, but got {value} instead."
        )
        raise InvalidRequestError(message, name, "integer_below_min_value")
    if value > most:
        message = f"Invalid '{name}': integer above maximum value. Expected a value <= {most}, but got {value} instead."
        raise InvalidRequestError(message, name, "integer_above_max_value")
    return value


def check_decimal(fields: Mapping[str, Any], name: str, most: int) -> None:
    """That the field, if there, is a number from 0 to `most`."""
    value = fields.get(name)
    if value is None or (type(value) in (int, float) and 0 <= value <= most):
        return
    if type(value) not in (int, float):
        raise wrong_type(name, "a decimal", value)
    side, sign, bound = ("below minimum", ">=", 0) if value < 0 else ("above maximum", "<=", most)
    message = f"Invalid '{name}': decimal {side} value. Expected a value {sign} {bound}, but got {value} instead."
    raise InvalidRequestError(message, name, "decimal_below_min_value" if value < 0 else "decimal_above_max_value")


def mapping(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Empty where the field is absent."""
    value = fields.get(name)
    if value is not None and not isinstance(value, dict):
        raise wrong_type(name, "an object", value)
    return value or {}


def sequence(fields: Mapping[str, Any], name: str) -> list[Any]:
    """Empty where the field is absent."""
    value = fields.get(name)
    if value is not None and not isinstance(value, list):
        raise wrong_type(name, "an array", value)
    return value or []


def is_tokens(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int and token >= 0 for token in value)
