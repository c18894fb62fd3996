"""The list of models, and one of it: GET /openai/models with a dated api-version, and GET /openai/v1/models. Pure.

Documented: the dated list is of the models that the resource may deploy, not of its deployments; a model there has
`status`, `capabilities`, `lifecycle_status`, `deprecation` (when it will end, Unix seconds), `id`, `created_at` and
`object`. The one of v1 is OpenAI's: `id`, `created`, `object`, `owned_by`.

Inferred: an `id` is the model and its version (`gpt-4.1-mini-2025-04-14`), and `created_at` its version's midnight in
UTC, as public listings of 2024 have it; both are indented by 2.

Decided: a model ends two years after it came; one whose name has no date came with text-embedding-3.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

_DAY = 86_400
_UNDATED = 1_706_140_800
_LIFE = 730 * _DAY
_COMPLETING = re.compile(r"gpt-35-turbo-instruct|gpt-3\.5-turbo-instruct|davinci|babbage")


def listed(models: Iterable[str], *, v1: bool) -> bytes:
    return _render({"data": [_model(model, v1) for model in models], "object": "list"})


def one(model: str, *, v1: bool) -> bytes:
    return _render(_model(model, v1))


def _render(value: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2)


def _model(model: str, v1: bool) -> dict[str, Any]:
    created = _created(model)
    if v1:
        return {"id": model, "object": "model", "created": created, "owned_by": "openai"}
    return {
        "status": "succeeded",
        "capabilities": _capabilities(model),
        "lifecycle_status": "preview" if model.endswith("-preview") else "generally-available",
        "deprecation": {"inference": created + _LIFE},
        "id": model,
        "created_at": created,
        "object": "model",
    }


def _capabilities(model: str) -> dict[str, bool]:
    embeds, completes = "embedding" in model, bool(_COMPLETING.match(model))
    return {
        "fine_tune": False,
        "inference": True,
        "completion": completes,
        "chat_completion": not (embeds or completes),
        "embeddings": embeds,
    }


def _created(model: str) -> int:
    dated = re.search(r"\d{4}-\d\d-\d\d", model)
    return int(datetime.fromisoformat(dated[0]).replace(tzinfo=UTC).timestamp()) if dated else _UNDATED
