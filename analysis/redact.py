"""A copy of a run that can be given away: who it is of is replaced, what was measured is kept.

Replaced.  Hosts, addresses, names of targets, resources, deployments and machines and the words they are made of, GUIDs
           and ids of requests, mail addresses, users in paths, files that were named. Each original has one pseudonym
           in the whole copy, made with a key that is thrown away, so that two copies cannot be held against each other.
Kept.      Regions, models, versions, outcomes, times, numbers, and the structure of headers: what analyses read. A
           target or a deployment that is named like a region or a model keeps that name, and so does loopback.
Sealed.    Each line is sealed again (`probe.lines`), so that `analysis verify` holds for the copy. A line that is no
           record is left out, and so is everything that is not the run's own: reports, logs.

It is made of rules, and a gateway can put into a header what no rule knows: look at a copy before giving it away.
"""

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from analysis.output import Result
from analysis.runs import RunError
from probe.headers import describe
from probe.hosts import is_loopback
from probe.journal import RUN_FILE, write_whole
from probe.lines import SealError, seal, unseal
from probe.prices import read_prices

_FILES = ("sent-*.jsonl", "calls-*.jsonl", "application-*.jsonl")
_ENUMERATIONS = {
    "probe.outcome",
    "probe.gateway",
    "probe.throttle.kind",
    "probe.trace",
    "probe.clock",
    "probe.surface",
    "probe.traffic",
    "probe.prompt.id",
    "probe.warnings",
    "probe.run.id",
    "probe.crc32",
    "gen_ai.operation.name",
    "gen_ai.response.model",
    "gen_ai.response.finish_reasons",
}
_HEADERS = {"probe.response.headers", "probe.response.trailers"}
_COMPASS = "(?:north|south|east|west|central)*"
_PLACES = (
    "us|uk|eu|europe|asia|africa|india|australia|brazil|canada|france|germany|italy|japan|korea|norway|poland|qatar|spain"
    "|sweden|switzerland|uae|israel|mexico|newzealand|austria|indonesia|malaysia|chile"
)
_REGION = re.compile(f"{_COMPASS}(?:{_PLACES}){_COMPASS}[0-9]?")
_GUID = re.compile(r"(?i)\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_HEX = re.compile(r"(?i)\b(?=[0-9a-f]*[0-9])[0-9a-f]{16,}\b")
_ID = re.compile(r"\b(chatcmpl|cmpl|resp|msg|req|rs|fc|call|run)([-_])([A-Za-z0-9_-]{6,})")
_MAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_AZURE_HOST = re.compile(
    r"(?i)(?<![\w.-])([a-z0-9][a-z0-9-]*)((?:\.[a-z0-9-]+)*\.(?:azure\.com|azure-api\.net|windows\.net|azurewebsites\.net"
    r"|azurefd\.net|microsoftonline\.com))"
)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])")
_IPV6 = re.compile(r"(?i)(?<![\w:.])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?![\w:])")
_RESOURCE = re.compile(r"(?i)(resourceGroups|accounts|deployments|workspaces|service)/([^/?\s\"',]+)")
_HOME = re.compile(r"(?i)((?:/home|/users|\\users)[/\\])([^/\\\s\"']+)")
_LONG_TOKEN = re.compile(r"(?<![\w.-])(?=[\w.-]*\d)(?=[\w.-]*[A-Za-z])[\w.-]{20,}")
# A shorter name is as likely a word; it is replaced where it stands for itself, and not inside a text.
_SHORTEST_IN_TEXT = 5
_WORKER = re.compile(r"(.+?)(-\d+(?:-\d+)?)")
# Parts of names and hosts that are nobody's.
_WORDS = set(
    "azure openai cognitiveservices services microsoft windows internal local example gateway apimgmt management"
    " deployment resource model models production staging default global datazone regional standard provisioned"
    " embedding embeddings target localhost server worker cloud chatbot".split()
)


class Redacted(NamedTuple):
    """`replaced` counts originals by kind; `left_out` files and lines that were not copied."""

    folder: Path
    replaced: dict[str, int]
    files: int
    left_out_files: int
    left_out_lines: int


def as_result(made: Redacted) -> Result:
    replaced = ", ".join(f"{number:,} of {kind}" for kind, number in sorted(made.replaced.items()))
    lines = [f"{made.files} files copied; replaced: {replaced or 'nothing'}"]
    if made.left_out_files or made.left_out_lines:
        lines.append(f"left out: {made.left_out_files} other files, {made.left_out_lines} lines that are no records")
    return Result(lines, {**made._asdict(), "folder": str(made.folder)}, {})


class _Pseudonyms:
    """One for each original, of the original's own form."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._known: dict[tuple[str, str], str] = {}
        self.counts: Counter[str] = Counter()
        self._names: re.Pattern[str] | None = None
        self._whole: dict[str, str] = {}

    def learn(self, names: Iterable[str], hosts: Iterable[str]) -> None:
        """What stands for itself in a record, and is to be found in its texts too."""
        for host in sorted(set(hosts)):
            self._whole[host.lower()] = self.host(host)
        for name in sorted(set(names)):
            if not _says_nothing(name):
                self._whole.setdefault(name.lower(), self._of("name", name, lambda digest: f"name-{digest[:8]}"))
        for part in {part for name in list(self._whole) for part in re.split(r"[^a-z0-9]+", name)}:
            if len(part) >= _SHORTEST_IN_TEXT and not part.isdigit() and not _says_nothing(part) and part not in _WORDS:
                self._whole.setdefault(part, self._of("name", part, lambda digest: f"name{digest[:8]}"))
        found = sorted((name for name in self._whole if len(name) >= _SHORTEST_IN_TEXT), key=len, reverse=True)
        if found:
            self._names = re.compile(rf"(?i)(?<![a-z0-9])(?:{'|'.join(map(re.escape, found))})(?![a-z0-9])")

    def name(self, name: str) -> str:
        return self._whole.get(name.lower(), name if _says_nothing(name) else self.text(name))

    def host(self, host: str) -> str:
        if is_loopback(host):
            return host
        try:
            ipaddress.ip_address(host)
        except ValueError:
            azure = _AZURE_HOST.fullmatch(host)
            if azure is not None:
                return self._azure_host(azure)
            return self._of("host", host, lambda digest: f"host-{digest[:8]}.example")
        return self.address(host)

    def address(self, text: str) -> str:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return text
        if address.is_loopback or address.is_unspecified:
            return text
        if address.version == 4:
            return self._of("address", text, lambda d: f"10.{int(d[:2], 16)}.{int(d[2:4], 16)}.{int(d[4:6], 16)}")
        return self._of("address", text, lambda d: f"2001:db8:{d[:4]}:{d[4:8]}::{d[8:12]}")

    def text(self, text: str) -> str:
        """With everything replaced that a rule knows, or that was learnt."""
        text = _MAIL.sub(lambda found: self._of("mail", found[0], lambda d: f"user-{d[:8]}@mail.example"), text)
        if self._names is not None:
            text = self._names.sub(lambda found: self._whole[found[0].lower()], text)
        text = _AZURE_HOST.sub(self._azure_host, text)
        text = _GUID.sub(lambda found: self.shaped(found[0]), text)
        text = _RESOURCE.sub(lambda found: f"{found[1]}/{self._part(found[2])}", text)
        text = _HOME.sub(lambda found: found[1] + self._of("user", found[2], lambda d: f"user-{d[:8]}"), text)
        text = _IPV4.sub(lambda found: self.address(found[0]), text)
        text = _IPV6.sub(lambda found: self.address(found[0]), text)
        text = _ID.sub(lambda found: found[1] + found[2] + self.shaped(found[3]), text)
        return _HEX.sub(lambda found: self.shaped(found[0]), text)

    def header(self, name: str, value: str) -> list[str]:
        reading = describe(name, value)
        if reading.group == "ids":
            value = self.shaped(value)
        else:
            value = self.text(value)
            if reading.group == "unknown":
                value = _LONG_TOKEN.sub(lambda found: self._token(found[0]), value)
        known = reading.group != "unknown" and not name.lower().startswith("x-ms-spillover-from-")
        return [name if known else self.text(name), value]

    def worker(self, worker_id: str) -> str:
        """A machine's name and a process's number."""
        found = _WORKER.fullmatch(worker_id)
        return self.text(worker_id) if found is None else self.name(found[1]) + found[2]

    def file(self, path: str) -> str:
        return self._of("file", path, lambda digest: f"file-{digest[:8]}{Path(path).suffix}")

    def shaped(self, text: str) -> str:
        """Digits become digits, letters letters of their case, hexadecimal what it was; the rest stays."""
        return self._of(
            "id", text, lambda digest: "".join(_like(c, d) for c, d in zip(text, _cycle(digest), strict=False))
        )

    def _token(self, text: str) -> str:
        return text if _says_nothing(text) or text in self._known.values() else self.shaped(text)

    def _azure_host(self, found: re.Match[str]) -> str:
        """The service and the region in its name stay; whose it is does not."""
        return self._part(found[1]) + found[2].lower()

    def _part(self, name: str) -> str:
        made = name.startswith("name-") and name in self._known.values()
        return name if made or _says_nothing(name) else self._of("name", name, lambda digest: f"name-{digest[:8]}")

    def _of(self, kind: str, original: str, make: Callable[[str], str]) -> str:
        key = (kind, original.lower())
        if key not in self._known:
            digest = hmac.new(self._key, original.lower().encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
            self._known[key] = make(digest)
            self.counts[kind] += 1
        return self._known[key]


def _says_nothing(name: str) -> bool:
    return (
        not name
        or is_loopback(name)
        or is_loopback(name.partition(":")[0])
        or _REGION.fullmatch(name.lower().replace(" ", "")) is not None
        or read_prices().price(name) is not None
    )


def _like(original: str, digit: str) -> str:
    if original in "abcdefABCDEF0123456789":
        return digit.upper() if original.isupper() else digit
    if original.isascii() and original.isalpha():
        letter = chr(ord("g") + int(digit, 16))
        return letter.upper() if original.isupper() else letter
    return original


def _cycle(digest: str) -> Iterator[str]:
    number = 0
    while True:
        yield from hashlib.sha256(f"{digest}{number}".encode()).hexdigest()
        number += 1


def redact(folder: Path, copy: Path) -> Redacted:
    """Makes `copy`. Raises `RunError`, and `JournalError` or `OSError` where it cannot be written."""
    if copy.exists():
        raise RunError(f"{copy} is there already; -o names another folder")
    about = _about(folder)
    files = [path for pattern in _FILES for path in sorted(folder.glob(pattern))]
    pseudonyms = _Pseudonyms()
    pseudonyms.learn(*_learnt(about, files))
    copy.mkdir(parents=True, mode=0o700)
    bad = sum(_copy(path, copy / _file_name(path, pseudonyms), pseudonyms) for path in files)
    write_whole(copy / RUN_FILE, msgspec.json.format(msgspec.json.encode(_run(about, pseudonyms))).decode() + "\n")
    others = sum(path.is_file() for path in folder.iterdir()) - len(files) - 1
    return Redacted(copy, dict(pseudonyms.counts), len(files) + 1, others, bad)


def _file_name(path: Path, pseudonyms: _Pseudonyms) -> str:
    kind, _, worker = path.stem.partition("-")
    return f"{kind}-{pseudonyms.worker(worker)}.jsonl"


def _about(folder: Path) -> dict[str, Any]:
    try:
        about = msgspec.json.decode((folder / RUN_FILE).read_bytes())
    except OSError:
        raise RunError(f"{folder} is no run: there is no {RUN_FILE} in it") from None
    except ValueError as error:
        raise RunError(f"{folder / RUN_FILE} cannot be read: {error}") from None
    if not isinstance(about, dict):
        raise RunError(f"{folder / RUN_FILE} does not describe a run")
    return about


def _learnt(about: dict[str, Any], files: list[Path]) -> tuple[set[str], set[str]]:
    """Names and hosts."""
    names, hosts = {str(about.get("host", ""))}, set()
    for target in about.get("targets", ()):
        names |= {str(target.get("name", "")), str(target.get("deployment", ""))}
        hosts.add(urlsplit(str(target.get("endpoint", ""))).hostname or "")
    for path in files:
        for line in _lines(path):
            names |= {str(line.get(key, "")) for key in ("probe.target", "gen_ai.request.model")}
            worker = _WORKER.fullmatch(str(line.get("probe.worker.id", "")))
            names.add(worker[1] if worker else "")
            hosts.add(str(line.get("server.address", "")))
    return names - {""}, hosts - {""}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Those that are whole."""
    with path.open("rb") as file:
        for raw in file:
            try:
                line = msgspec.json.decode(raw)
            except ValueError:
                continue
            if isinstance(line, dict):
                yield line


def _copy(path: Path, copy: Path, pseudonyms: _Pseudonyms) -> int:
    """How many lines were left out, because they are none of ours, or cut off."""
    bad = 0
    with path.open("rb") as source, copy.open("xb") as target:
        copy.chmod(0o600)
        for raw in source:
            try:
                body, number = unseal(raw.rstrip(b"\n"))
                line = msgspec.json.decode(body)
            except (SealError, ValueError):
                bad += 1
                continue
            changed = {key: _value(key, value, pseudonyms) for key, value in line.items()}
            target.write(seal(msgspec.json.encode(changed), number))
    return bad


def _value(key: str, value: Any, pseudonyms: _Pseudonyms) -> Any:
    if key in _ENUMERATIONS:
        return value
    if key in _HEADERS:
        return [pseudonyms.header(name, sent) for name, sent in value]
    if isinstance(value, dict):
        return {inner: _value(inner, one, pseudonyms) for inner, one in value.items()}
    if isinstance(value, list):
        return [_value(key, one, pseudonyms) for one in value]
    return _text(key, value, pseudonyms) if isinstance(value, str) else value


def _text(key: str, value: str, pseudonyms: _Pseudonyms) -> str:
    if key in ("probe.target", "gen_ai.request.model", "target", "deployment", "through", "ranking"):
        return pseudonyms.name(value)
    if key == "probe.worker.id":
        return pseudonyms.worker(value)
    if key == "server.address":
        return pseudonyms.host(value)
    if key == "network.peer.address":
        return pseudonyms.address(value)
    if key == "azure.service.request.id":
        return pseudonyms.shaped(value)
    return pseudonyms.text(value)


def _run(about: dict[str, Any], pseudonyms: _Pseudonyms) -> dict[str, Any]:
    """The logs' folder is not the copy's; what the machine is, is."""
    kept = {name: value for name, value in about.items() if name != "logs"}
    kept |= _part(kept, pseudonyms)
    if "parts" in kept:
        kept["parts"] = [_part(part, pseudonyms) for part in kept["parts"]]
    kept["targets"] = [_target(target, pseudonyms) for target in about.get("targets", ())]
    options = dict(about.get("options", {}))
    options["targets"] = [pseudonyms.name(name) for name in options.get("targets", ())]
    for name in ("trace", "schedule", "prices", "results"):
        if options.get(name):
            options[name] = pseudonyms.file(str(options[name]))
    if (capacity := options.get("capacity")) and not capacity.replace(".", "").isdigit():
        options["capacity"] = pseudonyms.file(capacity)
    options["rates"] = {pseudonyms.name(name): rate for name, rate in options.get("rates", {}).items()}
    options["send"] = [[kind, pseudonyms.file(where)] for kind, where in options.get("send", ())]
    kept["options"] = options
    return kept | {"redacted": True}


def _part(about: dict[str, Any], pseudonyms: _Pseudonyms) -> dict[str, Any]:
    """Where it took place, and how it ended: of a run, or of one of those it was gathered from."""
    kept = dict(about)
    if "host" in kept:
        kept["host"] = pseudonyms.name(str(kept["host"]))
    if "processes" in kept:
        kept["processes"] = [pseudonyms.worker(name) for name in kept["processes"]]
    if isinstance(kept.get("ended"), dict):
        kept["ended"] = {key: _value(key, value, pseudonyms) for key, value in kept["ended"].items()}
        if "lost" in kept["ended"]:
            kept["ended"]["lost"] = [pseudonyms.worker(name) for name in about["ended"]["lost"]]
    return kept


def _target(target: dict[str, Any], pseudonyms: _Pseudonyms) -> dict[str, Any]:
    changed = {key: _value(key, value, pseudonyms) for key, value in target.items() if key not in ("name", "gateway")}
    for key in ("name", "deployment"):
        if key in target:
            changed[key] = pseudonyms.name(str(target[key]))
    endpoint = urlsplit(str(target.get("endpoint", "")))
    host = endpoint.hostname or ""
    port = "" if endpoint.port is None else f":{endpoint.port}"
    path = endpoint.path if endpoint.path in ("", "/") else pseudonyms.file(endpoint.path)
    changed["endpoint"] = f"{endpoint.scheme}://{pseudonyms.host(host)}{port}/{path.strip('/')}".rstrip("/")
    return {key: changed.get(key, value) for key, value in target.items()}
