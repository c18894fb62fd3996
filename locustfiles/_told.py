"""What a run says: each line on stderr, with the command's name before it."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress

from locust.env import Environment

from locustfiles._options import Options
from locustfiles._plan import streaming
from locustfiles._words import seconds
from probe.escaping import printable
from probe.record import NOT_SENT
from probe.target import Target

_DROPS = tuple(f"Error('{outcome}')" for outcome in NOT_SENT)


def say(message: str) -> None:
    # The terminal may be gone, and what is to be done then is not to fail.
    with suppress(OSError):
        print(f"headroom: {printable(message)}", file=sys.stderr, flush=True)


def plan_line(options: Options, targets: Sequence[Target]) -> str:
    """How calls come to be made, and to whom."""
    arrivals = {
        "closed": "each user calls again when its call has ended (closed model: queueing not measured)",
        "poisson": f"{options.rate or 0:g} calls a second at random (open model)",
        "constant": f"{options.rate or 0:g} calls a second, evenly spaced (open model)",
        "stepped": f"steps, up to {options.max_rate:g} calls a second, evenly spaced (open model)",
        "schedule": f"calls when {options.schedule} says (open model)",
        "trace": f"{options.trace} at {options.trace_speed:g} times its speed (open model)",
    }[options.arrivals]
    names = ", ".join(f"{target.name} ({target.gateway})" for target in targets)
    return f"{arrivals}; {streaming(options):.0%} streaming; to {names}"


def progress_line(environment: Environment, first_token: float | None, at: float) -> str:
    """`first_token` is the median, in seconds."""
    total = environment.stats.total
    # Of a worker's errors there is only how Python shows them.
    errors = [(str(error.error), error.occurrences) for error in environment.stats.errors.values()]
    dropped = sum(times for text, times in errors if text in NOT_SENT or text.endswith(_DROPS))
    ended, failed = total.num_requests - dropped, total.num_failures - dropped
    line = f"{at:5.0f} s  {ended} calls ended, {failed} not answered"
    if dropped:
        line += f", {dropped} dropped"
    if first_token is not None:
        line += f", first token after {seconds(first_token)} (median)"
    return line


def counts(tally: Counter[str], is_open: bool) -> dict[str, int]:
    """What `run.json` says of a run's calls. `calls` are the journal's, with the checks before the run."""
    sent = ("scheduled", "sent", "dropped") if is_open else ("sent",)
    names = ("calls", *sent, "first_tokens", "tainted", "spent_tokens", "spent_microdollars")
    seldom = tuple(name for name in ("applications", "internal") if tally[name])
    return {name: tally[name] for name in (*names, *seldom)}


def closing_lines(tally: Counter[str], options: Options) -> Iterator[str]:
    """What the run can prove of itself."""
    if options.is_open:
        others = f"; {tally['applications']} the application's" if tally["applications"] else ""
        yield f"{tally['scheduled']} calls were due: {tally['sent']} sent, {tally['dropped']} dropped{others}"
    if tally["without_room"]:
        yield f"dropped: {options.max_in_flight} calls were open in a process; --max-in-flight allows more"
    if tally["internal"]:
        yield f"{tally['internal']} calls came to nothing by this side's own fault (internal); see above"
    if timed := tally["first_tokens"]:
        share = tally["tainted"] / timed
        yield f"{share:.1%} of {timed} first tokens may have been stamped late by this machine"
        if too_tainted(tally, options):
            yield (
                f"no claim on time to first token: --max-tainted allows {options.max_tainted:.1%};"
                " give the load more processes (--processes) or fewer calls"
            )


def too_tainted(tally: Counter[str], options: Options) -> bool:
    return tally["tainted"] > options.max_tainted * tally["first_tokens"]
