"""What two runs have not in common: which figures that makes incomparable, and what to mind with the others.

Another mix of calls, another scenario, or users who wait for their answers beside calls that do not, and a difference
is the load's. Another model, region or rate may be just what was to be compared, and is only said.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec
import pandas as pd

from analysis.outcomes import lateness
from analysis.runs import Run
from analysis.stats import quantile
from probe.hosts import is_loopback
from probe.journal import RUN_FILE

Topic = Literal["times", "shares", "tokens", "rates", "headers"]
EVERYTHING: tuple[Topic, ...] = ("times", "shares", "tokens", "rates", "headers")

# Seconds that a run should last, for a limiter's minutes to be many in it.
_LONG = 600.0
# Seconds by which calls may be issued late before the generator is the limit.
_LATE = 0.05
# Where a run was kept, what it was agreed to, what it was to be judged by: none of it made a call.
_NO_LOAD = {"results", "plan", "yes", "slo", "caps", "prices", "breaker", "targets", "mix", "allow_host", "ca_bundle"}

_MIX = "another mix of calls"


class Comparable(NamedTuple):
    """`withheld` has why figures of a topic are not judged, by `whole` runs and of a target; `classes` are those of the
    mix that both runs have alike. `changed` has a row a setting: setting, a, b (text; None where it has none)."""

    withheld: Mapping[Topic, str]
    classes: frozenset[str]
    warnings: list[str]
    changed: pd.DataFrame

    def withheld_of_class(self, name: str) -> Mapping[Topic, str]:
        """A class that both runs have alike can be compared, whatever else is in their mixes."""
        return {topic: why for topic, why in self.withheld.items() if why != _MIX or name not in self.classes}


def comparable(a: Run, b: Run) -> Comparable:
    asked = [_asked(run.folder) for run in (a, b)]
    classes = [_classes(one) for one in asked]
    alike = frozenset(name for name, about in classes[0].items() if about == classes[1].get(name))
    settings = [_settings(run, about, mix) for run, about, mix in zip((a, b), asked, classes, strict=True)]
    rows = [
        {"setting": name, "a": settings[0].get(name), "b": settings[1].get(name)}
        for name in sorted({*settings[0], *settings[1]})
        if settings[0].get(name) != settings[1].get(name)
    ]
    changed = pd.DataFrame(rows, columns=["setting", "a", "b"])
    return Comparable(
        _withheld(asked, classes), alike, [*_of_both(settings, changed), *_of_each(a, "A"), *_of_each(b, "B")], changed
    )


def _asked(folder: Path) -> dict[str, Any]:
    return dict(msgspec.json.decode((folder / RUN_FILE).read_bytes()))


def _options(asked: Mapping[str, Any]) -> Mapping[str, Any]:
    found = asked.get("options")
    return found if isinstance(found, dict) else {}


def _classes(asked: Mapping[str, Any]) -> dict[str, str]:
    """What calls are made of, by the class's name as the calls have it."""
    options = _options(asked)
    if options.get("trace") is not None:
        return {"trace": _text([options["trace"], options.get("trace_seconds")])}
    return {str(one.get("name")): _text(one) for one in options.get("mix") or () if isinstance(one, dict)}


def _withheld(asked: list[dict[str, Any]], classes: list[dict[str, str]]) -> dict[Topic, str]:
    if asked[0].get("scenario") != asked[1].get("scenario"):
        return dict.fromkeys(EVERYTHING, "another scenario")
    if classes[0] != classes[1]:
        return dict.fromkeys(EVERYTHING, _MIX)
    closed = [one.get("arrivals") == "closed" for one in asked]
    if closed[0] != closed[1]:
        # What a call is made of does not depend on when it is sent.
        return dict.fromkeys((topic for topic in EVERYTHING if topic != "tokens"), "open and closed model")
    return {}


def _settings(run: Run, asked: Mapping[str, Any], classes: Mapping[str, str]) -> dict[str, str]:
    """What a run was made with, and what answered it."""
    found: dict[str, Any] = {name: value for name, value in _options(asked).items() if name not in _NO_LOAD}
    found |= {name: asked.get(name) for name in ("scenario", "arrivals", "host")}
    found["processes"] = len(asked.get("processes") or ())
    found |= {f"class {name}": text for name, text in classes.items()}
    found |= {f"version of {name}": version for name, version in run.about.versions.items()}
    for target in run.about.targets:
        about = (target.gateway, target.deployment, target.api_version, _host(target.endpoint))
        found[f"target {target.name}"] = ", ".join(str(one) for one in about if one is not None)
    for name, column in (("answered by", "response_model"), ("region", "region")):
        found[name] = ", ".join(sorted(map(str, run.calls[column].dropna().unique())))
    return {name: _text(value) for name, value in found.items() if value not in (None, "", [], {})}


def _host(endpoint: str | None) -> str | None:
    """None of a simulator, whose ports are others each time."""
    host = urlsplit(endpoint or "").hostname
    return None if host is None or is_loopback(host) else host


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value, order="sorted").decode()


def _of_both(settings: list[dict[str, str]], changed: pd.DataFrame) -> Iterator[str]:
    names = set(changed["setting"])
    versions = sorted(name.removeprefix("version of ") for name in names if name.startswith("version of "))
    if versions:
        yield f"Another client: other versions of {', '.join(versions)}. Part of a difference may be its doing."
    if measured := sorted(names & {"host", "clock", "processes"}):
        yield f"Measured otherwise: {', '.join(measured)} differ. Part of a difference may be the client's doing."
    if "answered by" in names and all("answered by" in one for one in settings):
        yield "Another model answered: its tokens are other tokens, and its speed its own."
    if loads := sorted(names & {"rate", "schedule", "trace_speed", "stream_share"}):
        yield f"The load was another: {', '.join(loads)} differ."
    if any(name.startswith("target ") for name in names):
        yield "The targets were others, or other deployments of them."


def _of_each(run: Run, name: str) -> Iterator[str]:
    ended = run.about.ended
    if ended is None or ended.how != "completed":
        yield f"{name} did not run to its end ({'no end on record' if ended is None else ended.how})."
    if 0 < run.seconds < _LONG:
        yield (
            f"{name} lasted {run.seconds:,.0f} s: spells of a minute or longer are few in it, and intervals may be too"
            " narrow."
        )
    late = quantile(lateness(run.calls), 0.99)
    if late is not None and late > _LATE:
        yield f"{name} was issued late by {late:.2f} s (p99): its generator was the limit."
    dropped = int((run.calls["group"] == "dropped").sum())
    if dropped:
        yield f"{name} never sent {dropped:,} calls that were due: its times would be longer with them."
