"""Which surface a request is for. Pure.

Facts.  The dated path names the deployment and takes an `api-version`; `/openai/v1/` takes none and has the
        deployment's name in the body's `model`; so has Foundry's `/models/`, dated. The Responses API has no
        deployment in its path on either. A request that fits none of them is answered 404, whatever its method.
"""

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

Surface = Literal["chat", "completions", "embeddings", "responses", "models"]

OPERATIONS: dict[Surface, str] = {
    "chat": "ChatCompletions_Create",
    "completions": "Completions_Create",
    "embeddings": "Embeddings_Create",
    "responses": "Responses_Create",
    "models": "Models_List",
}
_SURFACES: dict[str, Surface] = {
    "chat/completions": "chat",
    "completions": "completions",
    "embeddings": "embeddings",
    "responses": "responses",
    "models": "models",
}
_DATED = re.compile(r"/openai/deployments/([^/]+)/(chat/completions|completions|embeddings)")
_DATED_WITHOUT_DEPLOYMENT = re.compile(r"/openai/(responses|models)(?:/([^/]+))?")
_V1 = re.compile(r"/openai/v1/(chat/completions|completions|embeddings|responses|models)(?:/([^/]+))?")
_FOUNDRY = re.compile(r"/models/(chat/completions|embeddings)")


class Route(NamedTuple):
    """`api` is the version, `v1` where the path is that. `deployment` is the path's, `item` what follows `models`."""

    surface: Surface
    api: str
    deployment: str | None = None
    foundry: bool = False
    item: str | None = None


def find(method: str, path: str, query: Mapping[str, str]) -> Route | None:
    route = _route(path, query.get("api-version"))
    if route is None or method != ("GET" if route.surface == "models" else "POST"):
        return None
    return route if route.item is None or route.surface == "models" else None


def _route(path: str, version: str | None) -> Route | None:
    if (found := _V1.fullmatch(path)) is not None:
        return Route(_SURFACES[found[1]], "v1", item=found[2])
    if not version:
        return None
    if (found := _DATED.fullmatch(path)) is not None:
        return Route(_SURFACES[found[2]], version, found[1])
    if (found := _DATED_WITHOUT_DEPLOYMENT.fullmatch(path)) is not None:
        return Route(_SURFACES[found[1]], version, item=found[2])
    if (found := _FOUNDRY.fullmatch(path)) is not None:
        return Route(_SURFACES[found[1]], version, foundry=True)
    return None
