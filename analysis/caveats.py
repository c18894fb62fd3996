"""What a reader must know before believing a report's figures."""

from analysis import application
from analysis.findings import Findings
from analysis.join import said_later
from analysis.logs import aside, left_out, said_aside
from analysis.regions import FEW
from analysis.tokens import MOST
from analysis.words import plain, seconds

# A deployment's remaining tokens that stand still while it admits calls, for this share of them, are not current.
_STALE_SHARE = 0.05


def caveats(findings: Findings) -> list[str]:
    """What a reader must know before believing the figures."""
    run = findings.run
    found = [*about_trust(findings), *_about_time(findings), *_about_headers(findings), *_about_few(findings)]
    found += run.gaps
    how = run.about.ended.how if run.about.ended else None
    if how != "completed":
        why = run.about.ended.why if run.about.ended else None
        ended = (
            f"The run was {plain(how)}{f': {plain(why)}' if why else ''}."
            if how
            else "The run has no end on record: it is on, or it was killed."
        )
        found.append(ended)
    return found + _about_the_application(findings) + _about_estimates(findings) + _about_logs(findings)


def about_trust(findings: Findings) -> list[str]:
    unverified = [str(target.name) for target in findings.run.about.targets if target.tls_verified is False]
    if not unverified:
        return []
    return [
        f"CERTIFICATES WERE NOT VERIFIED (--insecure-skip-verify) for {', '.join(unverified)}: whoever was in between "
        "could have answered instead."
    ]


def _about_the_application(findings: Findings) -> list[str]:
    view = findings.view
    if view is None:
        return []
    found = [
        "The application's calls went through the SDK: they are in no figure but its own, and took of the same quota."
    ]
    unfinished = application.totals(view)["unfinished"]
    if unfinished:
        found.append(f"{unfinished:,} of the application's calls broke off without a finish reason; it was not told.")
    if view.skipped:
        found.append(f"{view.skipped:,} lines of the application's file were no records and were skipped.")
    return found


def _about_time(findings: Findings) -> list[str]:
    found = []
    if findings.run.about.arrivals == "closed":
        found.append("Closed model: users wait for their answers, so queueing is not measured.")
    if findings.late_p99 is not None and findings.late_p99 > 0.05:
        found.append(f"Calls were issued late by {seconds(findings.late_p99)} (p99): the generator was the limit.")
    if findings.late:
        spells = ", ".join(f"{begin:,.0f} to {end:,.0f} s" for begin, end in findings.late[:3])
        more = f" and {len(findings.late) - 3} more" if len(findings.late) > 3 else ""
        found.append(f"The generator was behind from {spells}{more}: what was measured then is partly its own doing.")
    if findings.counts["dropped"]:
        found.append("Calls were dropped, as too many were open: times from due would be longer with them.")
    if (why := no_claim(findings)) is not None:
        found.append(why)
    return found


def _about_headers(findings: Findings) -> list[str]:
    return [
        f"{plain(target)}'s remaining tokens stood still over {share:.0%} of the calls that it admitted: its headers"
        " are stale."
        for target, share in findings.stale.items()
        if share > _STALE_SHARE
    ]


def _about_few(findings: Findings) -> list[str]:
    """Cells, of a target or region, with few calls."""
    few = [str(name) for name in findings.regions.loc[findings.regions["few"], "region"]]
    targets = findings.targets
    few += [str(name) for name in targets.loc[targets["answered"].between(1, FEW - 1), "target"]]
    if not few:
        return []
    distinct = list(dict.fromkeys(few))
    names = ", ".join(plain(name) for name in distinct[:3])
    more = f" and {len(distinct) - 3} more" if len(distinct) > 3 else ""
    return [f"Fewer than {FEW} answered calls of {names}{more}: their 95th percentiles say little."]


def no_claim(findings: Findings) -> str | None:
    """Why nothing is said of first tokens, where the generator was too late itself."""
    most = findings.run.about.options.max_tainted
    if findings.tainted is None or findings.tainted <= most:
        return None
    return (
        f"No claim on time to first token: {findings.tainted:.1%} of them may have been stamped late by the generator"
        f" itself (allowed: {most:.1%}). Give the load more processes, or fewer calls."
    )


def _about_estimates(findings: Findings) -> list[str]:
    found = []
    if findings.countable > MOST:
        found.append(f"Token estimates are of {MOST:,} calls drawn at random.")
    if findings.unknown:
        number, reason = sum(findings.unknown.values()), next(iter(findings.unknown))
        found.append(f"{number:,} calls have no token estimate, mostly: {plain(reason)}.")
    return found


def _about_logs(findings: Findings) -> list[str]:
    found = []
    logs, coverage = findings.logs, findings.coverage
    if coverage is None:
        found.append("No diagnostic logs were given; --logs says where they are.")
    elif not logs.files:
        found.append("No log is below the folders given.")
    elif findings.apart is not None:
        found.append(plain(findings.apart))
    else:
        found += said_later(coverage)
    if logs.skipped:
        first = left_out(logs)[0].removeprefix("Skipped ")
        many = f"{logs.skipped_lines:,} lines or files of the logs were skipped, the first"
        found.append(f"{many if logs.skipped_lines else 'Of the logs'}: {plain(first)}")
    return [*found, *said_aside(aside(logs)["without_id"], {})]
