"""The options of a run, each as a flag of Locust's and as an environment variable."""

import os
import re
import secrets
import socket
import sys
from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import msgspec

from analysis.destinations import KINDS
from locustfiles._slo import Objective, read_objectives
from probe.hosts import NO_KEY
from probe.prompts import CONVERSATION, TrafficClass, read_mix, streaming
from probe.spending import Caps
from probe.target import SettingsError, Target, configured
from probe.transport import Timeouts

if TYPE_CHECKING:
    # Importing it patches the process for gevent, and the options are also read where there is none.
    from locust.argument_parser import LocustArgumentParser

# Flag, environment variable, default, meaning. Values are text, so that a wrong one ends in one line of ours.
OPTIONS = (
    ("--targets", "HEADROOM_TARGETS", "", "names of the targets to call, with commas; by default all there are"),
    ("--stream-share", "HEADROOM_STREAM_SHARE", "0.7", "share of the calls that stream, 0 to 1"),
    ("--mix", "HEADROOM_MIX", "", "TOML file of traffic classes; by default a production conversation's"),
    ("--rate", "HEADROOM_RATE", "", "open model: calls a second, whatever the service does"),
    ("--arrivals", "HEADROOM_ARRIVALS", "poisson", "how the calls of --rate arrive: poisson, or constant gaps"),
    ("--max-rate", "HEADROOM_MAX_RATE", "50", "knee.py, burst.py, soak.py: most calls a second that are offered"),
    ("--share", "HEADROOM_SHARE", "0.7", "soak.py: share of a target's capacity that is offered, 0 to 1"),
    (
        "--capacity",
        "HEADROOM_CAPACITY",
        "",
        "soak.py: calls a minute that a target takes, or where a run of knee.py is; by default the limits it states",
    ),
    ("--step-seconds", "HEADROOM_STEP_SECONDS", "8", "knee.py: how long each rate is offered while it rises"),
    ("--window", "HEADROOM_WINDOW", "60", "knee.py, burst.py: longest window that a limit may be kept over, seconds"),
    ("--target-seconds", "HEADROOM_TARGET_SECONDS", "295", "knee.py: most seconds for each target"),
    ("--schedule", "HEADROOM_SCHEDULE", "", "open model: file of the seconds at which calls are due, one a line"),
    ("--trace", "HEADROOM_TRACE", "", "open model: replay a run's folder, diagnostic logs or a published trace (CSV)"),
    ("--trace-speed", "HEADROOM_TRACE_SPEED", "1", "replay so many times faster than recorded"),
    ("--trace-seconds", "HEADROOM_TRACE_SECONDS", "", "replay only this much of the trace's own time"),
    ("--max-in-flight", "HEADROOM_MAX_IN_FLIGHT", "1000", "open model: most calls open in a process; more are dropped"),
    ("--pause", "HEADROOM_PAUSE", "1", "closed model: seconds a user waits after a call without an answer"),
    ("--call-timeout", "HEADROOM_CALL_TIMEOUT", "600", "seconds after which a call is given up"),
    ("--clock", "HEADROOM_CLOCK", "kernel", "arrival stamps: the kernel's (on Linux), or user: this process's own"),
    ("--max-tainted", "HEADROOM_MAX_TAINTED", "0.01", "share of late stamps up to which first tokens are reported"),
    ("--rounds", "HEADROOM_ROUNDS", "100", "gateway.py, regions.py: so many calls to each target, in rounds"),
    ("--precision", "HEADROOM_PRECISION", "", "gateway.py, regions.py: know differences within this: 1ms, or 20ms"),
    ("--sdk-retries", "HEADROOM_SDK_RETRIES", "", "sdk_retries.py: retries of the SDK; by default its own number, 2"),
    ("--allow-host", "HEADROOM_ALLOW_HOST", "", "your own hosts that may get the key, with commas, or *.NAME"),
    ("--ca-bundle", "HEADROOM_CA_BUNDLE", "", "certificates (PEM) of authorities to trust besides the system's"),
    ("--slo", "HEADROOM_SLO", "", "exit with 7 unless it holds, as ttft_p95<1.5s; repeatable, or with ; between them"),
    ("--seed", "HEADROOM_SEED", "1", "of the mix and the arrivals"),
    ("--results", "HEADROOM_RESULTS", "results", "folder that runs are kept in"),
    ("--plan", "HEADROOM_PLAN", "auto", "say what is to be sent, and ask: auto (not for loopback), always, or only"),
    ("--yes", "HEADROOM_YES", "", "send without asking"),
    ("--max-requests", "HEADROOM_MAX_REQUESTS", "", "most requests of a run, retries and checks included"),
    ("--max-tokens", "HEADROOM_MAX_TOKENS", "", "most tokens of a run, in and out together"),
    ("--max-cost", "HEADROOM_MAX_COST", "", "most US dollars of a run, by the prices known"),
    ("--prices", "HEADROOM_PRICES", "", "TOML file of your own prices, in the form of probe/prices.toml"),
    (
        "--engines",
        "HEADROOM_ENGINES",
        "1",
        "this many engines run this at once, none knowing of the others: part of each",
    ),
    ("--engine", "HEADROOM_ENGINE", "", "which of them this is, from 0; needed where a schedule or trace is parted"),
    ("--send-otlp", "HEADROOM_SEND_OTLP", "", "send calls to this OpenTelemetry collector while they are made"),
    ("--send-eventhubs", "HEADROOM_SEND_EVENTHUBS", "", "send calls to this event hub (NAMESPACE/HUB) meanwhile"),
    ("--send-blobs", "HEADROOM_SEND_BLOBS", "", "copy the run's files to this container of blobs (URL) meanwhile"),
    ("--breaker", "HEADROOM_BREAKER", "30", "give up after so many seconds of half the calls not answered; 0: never"),
)
# Options that can be given without a value.
SWITCHES = ("--yes",)
# Options that can be given several times.
REPEATED = ("--slo",)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    targets: tuple[str, ...]
    stream_share: float
    mix: tuple[TrafficClass, ...]
    arrivals: Literal["closed", "poisson", "constant", "schedule", "trace", "stepped"]
    rate: float | None
    # Calls a second to each target, where the scenario gives each its own; `rate` is that of all together.
    rates: dict[str, float] = {}
    max_rate: float
    share: float
    capacity: str | None
    step_seconds: float
    window: float
    target_seconds: float
    schedule: str | None
    trace: str | None
    trace_speed: float
    trace_seconds: float | None
    max_in_flight: int
    pause: float
    call_timeout: float
    clock: Literal["kernel", "user"]
    max_tainted: float
    slo: tuple[Objective, ...]
    rounds: int
    precision: float | None
    sdk_retries: int | None
    allow_host: str
    ca_bundle: str
    tls_verified: bool
    seed: str
    results: str
    plan: Literal["auto", "always", "only"]
    yes: bool
    caps: Caps
    prices: str | None
    breaker: float
    engines: int
    engine: int | None
    # Where the record is sent to while the run is on: a kind of `analysis.destinations` and where.
    send: tuple[tuple[str, str], ...]

    def of_engine(self) -> "Options":
        """What one of several engines has of the rate and the caps; and without a number, which would tell it from the
        others, a seed of its own."""
        if self.engines == 1:
            return self
        own = secrets.token_hex(4) if self.engine is None else str(self.engine)
        # A number beyond the last has nothing of what is left over, so that all together stay below a cap.
        number = self.engines if self.engine is None else self.engine
        return msgspec.structs.replace(
            self,
            rate=None if self.rate is None else self.rate / self.engines,
            caps=self.caps.part(number, self.engines),
            seed=f"{self.seed}-{own}",
        )

    def at_rates(self, rates: Mapping[str, float]) -> "Options":
        """Calls a second to each target, by name; with none of them as it is."""
        if not rates:
            return self
        return msgspec.structs.replace(self, arrivals="poisson", rate=sum(rates.values()), rates=dict(rates))

    @property
    def is_open(self) -> bool:
        """Whether calls are due on a schedule, so that waiting for a slow service is measured."""
        return self.arrivals != "closed"

    @property
    def streaming(self) -> float:
        """The share of the mix's calls that stream, 0 to 1."""
        return streaming(self.mix, self.stream_share)

    @property
    def prices_file(self) -> Path | None:
        return None if self.prices is None else Path(self.prices)

    @property
    def timeouts(self) -> Timeouts:
        usual, total = Timeouts(), self.call_timeout
        return Timeouts(
            connect=min(usual.connect, total),
            first_byte=min(usual.first_byte, total),
            idle=min(usual.idle, total),
            total=total,
        )


def read_options(parsed: Any) -> Options:
    """From Locust's parsed arguments. Raises `SettingsError`."""
    text = {flag: _text(getattr(parsed, flag[2:].replace("-", "_"))) for flag, *_ in OPTIONS}
    return Options(
        targets=tuple(name.strip() for name in text["--targets"].split(",") if name.strip()),
        stream_share=_number(text, "--stream-share", 0.0, 1.0),
        mix=_mix(text["--mix"]),
        arrivals=_arrivals(text),
        rate=_number(text, "--rate", 0.001, 100_000) if text["--rate"] else None,
        max_rate=_number(text, "--max-rate", 0.01, 10_000),
        share=_number(text, "--share", 0.001, 1),
        capacity=text["--capacity"] or None,
        step_seconds=_number(text, "--step-seconds", 0.5, 3600),
        window=_number(text, "--window", 1, 3600),
        target_seconds=_number(text, "--target-seconds", 5, 86_400),
        schedule=text["--schedule"] or None,
        trace=text["--trace"] or None,
        trace_speed=_number(text, "--trace-speed", 1e-3, 1e4),
        trace_seconds=_number(text, "--trace-seconds", 1e-3, 1e9) if text["--trace-seconds"] else None,
        max_in_flight=int(_number(text, "--max-in-flight", 1, 100_000)),
        pause=_number(text, "--pause", 0, 3600),
        call_timeout=_number(text, "--call-timeout", 0.1, 86_400),
        clock=_one_of(text, "--clock", "kernel", "user"),
        max_tainted=_number(text, "--max-tainted", 0.0, 1.0),
        slo=read_objectives(text["--slo"]),
        rounds=int(_number(text, "--rounds", 1, 1e9)),
        precision=_duration(text, "--precision") if text["--precision"] else None,
        sdk_retries=int(_number(text, "--sdk-retries", 0, 100)) if text["--sdk-retries"] else None,
        allow_host=text["--allow-host"],
        ca_bundle=text["--ca-bundle"],
        tls_verified=not parsed.insecure_skip_verify,
        seed=text["--seed"],
        results=text["--results"] or "results",
        plan=_one_of(text, "--plan", "auto", "always", "only"),
        yes=_switch(text, "--yes"),
        caps=Caps(
            requests=_whole(text, "--max-requests"),
            tokens=_whole(text, "--max-tokens"),
            cost=_number(text, "--max-cost", 0.0, 1e9) if text["--max-cost"] else None,
        ),
        prices=text["--prices"] or None,
        breaker=_number(text, "--breaker", 0.0, 86_400),
        engines=int(_number(text, "--engines", 1, 1000)),
        engine=_engine(text),
        send=tuple((kind, text[f"--send-{kind}"]) for kind in KINDS if text[f"--send-{kind}"]),
    )


def _text(given: Any) -> str:
    return ";".join(given) if isinstance(given, list) else str(given or "").strip()


def find(options: Options) -> dict[str, Target]:
    """The configured targets by name, as these options would have them. Raises `SettingsError`."""
    said = {"HEADROOM_ALLOW_HOST": options.allow_host, "HEADROOM_CA_BUNDLE": options.ca_bundle}
    return configured({**os.environ, **said}, verified=options.tls_verified)


def add_options(parser: "LocustArgumentParser") -> None:
    for flag, variable, default, meaning in OPTIONS:
        alone = {"nargs": "?", "const": "1"} if flag in SWITCHES else {}
        if flag in REPEATED:
            parser.add_argument(flag, env_var=variable, action="append", help=meaning, include_in_web_ui=False)
        else:
            parser.add_argument(flag, env_var=variable, default=default, help=meaning, **alone)
    _add_trust_options(parser)
    if _is_alone(sys.argv[1:]):
        port = _free_port()
        parser.set_defaults(master_bind_port=port, master_port=port)


def _is_alone(arguments: list[str]) -> bool:
    """Whether master and workers are this command's own. On Locust's one port for all of them, workers of two runs on
    a machine would find each other's masters."""
    named = ("--master", "--worker")
    forks = "LOCUST_PROCESSES" in os.environ or any(one.startswith("--processes") for one in arguments)
    return forks and not any(one.startswith(named) for one in arguments)


def _free_port() -> int:
    with socket.socket() as probing:
        probing.bind(("127.0.0.1", 0))
        return int(probing.getsockname()[1])


def _add_trust_options(parser: "LocustArgumentParser") -> None:
    """What only a command line may say, what it must not say, and where Locust listens unless told otherwise."""
    parser.set_defaults(web_host="127.0.0.1", master_bind_host="127.0.0.1")
    parser.add_argument(
        "--insecure-skip-verify",
        action="store_true",
        include_in_web_ui=False,
        help="do not verify certificates; never with a key that matters",
    )
    parser.add_argument(
        *("--api-key", "--token"), nargs="?", action=_Refused, default=SUPPRESS, help=SUPPRESS, include_in_web_ui=False
    )


class _Refused(Action):
    def __call__(self, parser: ArgumentParser, *_: Any) -> NoReturn:
        parser.exit(2, f"headroom: {NO_KEY}\n")


def choose(found: Mapping[str, Target], names: tuple[str, ...]) -> list[Target]:
    """The targets of these names, or all. Raises `SettingsError` that says which there are."""
    unknown = [name for name in names if name not in found]
    if unknown:
        raise SettingsError(f"no target {unknown[0]!r}; there are: {', '.join(found)}")
    return [found[name] for name in names] if names else list(found.values())


def _arrivals(text: Mapping[str, str]) -> Any:
    given = [flag for flag in ("--rate", "--schedule", "--trace") if text[flag]]
    if len(given) > 1:
        raise SettingsError(f"{given[0]} and {given[1]} both say when calls are due; give one of them")
    spacing = _one_of(text, "--arrivals", "poisson", "constant")
    if spacing == "constant" and given != ["--rate"]:
        raise SettingsError("--arrivals constant says how the calls of --rate arrive; give --rate too")
    return spacing if given == ["--rate"] else given[0].removeprefix("--") if given else "closed"


def _engine(text: Mapping[str, str]) -> int | None:
    engines = int(_number(text, "--engines", 1, 1000))
    if text["--engine"]:
        return int(_number(text, "--engine", 0, engines - 1))
    if engines > 1 and (text["--schedule"] or text["--trace"]):
        raise SettingsError(f"a schedule or trace for {engines} engines is parted by number: give each its --engine")
    return None


def _one_of(text: Mapping[str, str], flag: str, *known: str) -> Any:
    if text[flag] not in known:
        raise SettingsError(f"{flag} ({_variable(flag)}) is {text[flag]!r}; it takes {' or '.join(known)}")
    return text[flag]


def _variable(flag: str) -> str:
    return next(variable for name, variable, *_ in OPTIONS if name == flag)


def _switch(text: Mapping[str, str], flag: str) -> bool:
    return text[flag].lower() not in ("", "0", "false", "no")


def _whole(text: Mapping[str, str], flag: str) -> int | None:
    """With `1e6` and `1_000_000` alike."""
    return int(_number(text, flag, 1, 1e15)) if text[flag] else None


def _mix(path: str) -> tuple[TrafficClass, ...]:
    try:
        return read_mix(Path(path)) if path else CONVERSATION
    except ValueError as error:
        raise SettingsError(str(error)) from None


def _duration(text: Mapping[str, str], flag: str) -> float:
    form = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)", text[flag])
    if form is None or not float(form[1]):
        raise SettingsError(f"{flag} ({_variable(flag)}) is {text[flag]!r}; it takes a time such as 20ms, 1.5s or 2m")
    return float(form[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}[form[2]]


def _number(text: Mapping[str, str], flag: str, low: float, high: float) -> float:
    try:
        value = float(text[flag])
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise SettingsError(
            f"{flag} ({_variable(flag)}) is {text[flag]!r}; it takes a number from {low:g} to {high:.15g}"
        )
    return value
