"""One run from where its parts were left: the folders of workers on machines of their own, or of engines.

Workers. A worker that cannot reach its master's folder keeps its files in one of the same name (`locustfiles._send`),
         without a run.json. They go into the master's.
Engines. Where nobody leads, as in Azure Load Testing, each engine has made a run of its own. They become one, with the
         engines' own in `parts` of its run.json, so that each process is still held against what its engine counted.

A file that is there twice, as after a copy that was cut off, is taken where it is longer. Nothing is changed where it
came from, but in the master's folder, which gets what is missing.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from analysis.output import Result
from analysis.runs import RunError
from analysis.sending import describe
from probe.errors import SettingsError
from probe.journal import RUN_FILE, write_whole

JOURNALS = ("sent-*.jsonl", "calls-*.jsonl", "application-*.jsonl")
_COUNTED = ("calls", "scheduled", "sent", "dropped", "applications", "first_tokens", "tainted", "internal")
_SPENT = ("spent_tokens", "spent_microdollars")


class Part(NamedTuple):
    """A run as one process made it: `master` is the folder with its run.json, `files` are by name."""

    run_id: str
    master: Path
    files: dict[str, Path]

    @property
    def about(self) -> dict[str, Any]:
        return dict(json.loads((self.master / RUN_FILE).read_text(encoding="utf-8")))


class Gathered(NamedTuple):
    folder: Path
    parts: int
    files: int


def as_result(made: Gathered) -> Result:
    engines = f" of {made.parts} engines" if made.parts > 1 else ""
    lines = [f"{made.files} files{engines}; next: analysis verify {made.folder}"]
    return Result(lines, {**made._asdict(), "folder": str(made.folder)}, {})


def gather(sources: Sequence[Path], into: Path | None = None) -> Gathered:
    """Everything of a run in `sources` (folders of a run's files, or folders of those) in one folder: `into`, or the
    master's, or of engines one beside the first. Raises `RunError` and `OSError`."""
    parts = _parts(sorted({folder for source in sources for folder in _folders(source)}))
    if len(parts) == 1 and into is None:
        folder, about = parts[0].master, None
    else:
        about = _one(parts) if len(parts) > 1 else parts[0].about
        folder = into or parts[0].master.parent / _name(about)
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    for part in parts:
        for name, path in part.files.items():
            _copy(path, folder / name)
    if about is not None:
        write_whole(folder / RUN_FILE, json.dumps(about, indent=2) + "\n")
    return Gathered(folder, len(parts), sum(len(part.files) for part in parts))


def _folders(source: Path) -> Iterable[Path]:
    found = {path.parent for pattern in (RUN_FILE, *JOURNALS) for path in source.rglob(pattern)}
    if not found:
        raise RunError(f"{source}: there are no files of a run in it")
    return found


def _parts(folders: list[Path]) -> list[Part]:
    masters: dict[str, Path] = {}
    files: dict[str, dict[str, Path]] = {}
    for folder in folders:
        try:
            run_id = describe(folder).run_id
        except SettingsError as error:
            raise RunError(str(error)) from None
        if (folder / RUN_FILE).exists():
            masters.setdefault(run_id, folder)
        for path in (path for pattern in JOURNALS for path in folder.glob(pattern)):
            other = files.setdefault(run_id, {}).setdefault(path.name, path)
            files[run_id][path.name] = _longer(path, other)
    if headless := files.keys() - masters.keys():
        raise RunError(f"the run {min(headless)} has no {RUN_FILE} here: give the folder of its master, too")
    parts = [Part(run_id, masters[run_id], files.get(run_id, {})) for run_id in masters]
    names = Counter(name for part in parts for name in part.files)
    if names and names.most_common(1)[0][1] > 1:
        raise RunError(f"two engines have a {names.most_common(1)[0][0]}: give their machines names of their own")
    return sorted(parts, key=lambda part: str(part.about.get("started_unix_nano")))


def _longer(one: Path, other: Path) -> Path:
    """Raises `RunError` where neither begins as the other one does."""
    short, long = sorted((one, other), key=lambda path: path.stat().st_size)
    if one != other:
        with short.open("rb") as first, long.open("rb") as second:
            while piece := first.read(1024 * 1024):
                if piece != second.read(len(piece)):
                    raise RunError(f"{one} and {other} are two files of one name")
    return long


def _copy(path: Path, to: Path) -> None:
    if to.exists() and _longer(path, to) == to:
        return
    draft = to.with_suffix(".tmp")
    shutil.copyfile(path, draft)
    draft.chmod(0o600)
    draft.replace(to)


def _one(parts: list[Part]) -> dict[str, Any]:
    """The run.json of what engines made together."""
    abouts = [part.about for part in parts]
    scenarios = {about.get("scenario") for about in abouts}
    if len(scenarios) > 1:
        raise RunError(f"these are runs of different scenarios: {', '.join(sorted(map(str, scenarios)))}")
    if any("parts" in about for about in abouts):
        raise RunError("one of these was gathered already; give the engines' own folders")
    kept = ("run_id", "started_unix_nano", "host", "processes", "ended")
    own = [{key: about[key] for key in kept if key in about} for about in abouts]
    run_id = hashlib.sha256("".join(sorted(part.run_id for part in parts)).encode()).hexdigest()[:8]
    processes = [name for about in abouts for name in about.get("processes", ())]
    made = {**abouts[0], "run_id": run_id, "processes": processes, "parts": own}
    if all("ended" in about for about in abouts):
        return {**made, "ended": _ended([about["ended"] for about in abouts])}
    made.pop("ended", None)
    return made


def _ended(ends: list[dict[str, Any]]) -> dict[str, Any]:
    how = next((end["how"] for end in ends if end["how"] != "completed"), "completed")
    counted = {name: sum(end.get(name, 0) for end in ends) for name in (*_COUNTED, *_SPENT) if name in ends[0]}
    lost = [name for end in ends for name in end.get("lost", ())]
    last = max(end["unix_nano"] for end in ends)
    return {"how": how, "unix_nano": last, **counted, **({"lost": lost} if lost else {})}


def _name(about: dict[str, Any]) -> str:
    began = datetime.fromtimestamp(about["started_unix_nano"] // 10**9, UTC)
    return f"{began:%Y%m%dT%H%M%SZ}-{about['scenario']}-{about['run_id']}"
