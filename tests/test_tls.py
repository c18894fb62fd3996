"""TLS as users meet it: certificates that are trusted, and those that must not be."""

import json
import ssl
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from probe.journal import read_calls
from probe.record import ObservedCall, decode
from tests.commands import run, settings_of
from tests.runs import only_run, openai_shaped
from tests.test_analysis import invoked
from tests.wire import WireServer, answers, serving


class Authority(NamedTuple):
    """A certificate authority nobody knows, its certificate's file, and a server's side for a name it vouches for."""

    file: Path
    authority: trustme.CA

    def server(self, name: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(name).configure_cert(context)
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = trustme.CA()
    file = tmp_path_factory.mktemp("authority") / "ca.pem"
    made.cert_pem.write_to_path(file)
    return Authority(file, made)


def look(server: WireServer, **settings: str) -> tuple[int, str, ObservedCall]:
    done = run("probe", "-o", "json", settings=settings_of(server.url, **settings))
    return done.returncode, done.stderr, decode(done.stdout.splitlines()[0])


def test_a_companys_own_authority_is_trusted_when_its_file_is_named(authority: Authority) -> None:
    with serving(answers(openai_shaped()), tls=authority.server("127.0.0.1")) as server:
        code, _, call = look(server, SSL_CERT_FILE=str(authority.file))
    assert (code, call.outcome) == (0, "ok")
    assert call.tls is not None and call.connect is not None and call.tls > 0
    assert call.clock == ("kernel" if sys.platform == "linux" else "user")


def test_an_unknown_authority_is_refused_and_nothing_is_sent(authority: Authority) -> None:
    with serving(answers(openai_shaped()), tls=authority.server("127.0.0.1")) as server:
        code, said, call = look(server)
        assert server.requests == []
    assert (code, call.outcome, call.status_code) == (3, "tls", None)
    assert "certificate" in said and "--ca-bundle" in said


def test_a_certificate_for_another_name_is_refused(authority: Authority) -> None:
    with serving(answers(openai_shaped()), tls=authority.server("elsewhere.example")) as server:
        code, said, call = look(server, SSL_CERT_FILE=str(authority.file))
        assert server.requests == []
    assert (code, call.outcome) == (3, "tls")
    assert "not valid for" in said


@pytest.mark.parametrize("variable", ["HEADROOM_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_a_bundle_is_trusted_besides_the_systems_authorities(authority: Authority, variable: str) -> None:
    with serving(answers(openai_shaped()), tls=authority.server("127.0.0.1")) as server:
        code, _, call = look(server, **{variable: str(authority.file)})
        flagged = run("probe", "-o", "none", "--ca-bundle", str(authority.file), settings=settings_of(server.url))
    assert (code, call.outcome, flagged.returncode) == (0, "ok", 0)


def test_only_a_flag_turns_verification_off_and_it_is_shouted(authority: Authority) -> None:
    settings = {
        "HEADROOM_PROBE_INSECURE_SKIP_VERIFY": "1",
        "HEADROOM_INSECURE_SKIP_VERIFY": "1",
        "PYTHONHTTPSVERIFY": "0",
    }
    with serving(answers(openai_shaped()), tls=authority.server("elsewhere.example")) as server:
        code, _, call = look(server, **settings)
        assert (code, call.outcome, server.requests) == (3, "tls", [])
        done = run("probe", "-o", "none", "--insecure-skip-verify", settings=settings_of(server.url))
    assert done.returncode == 0
    assert "CERTIFICATES ARE NOT VERIFIED" in done.stderr.splitlines()[0]


def test_a_run_without_verification_says_so_in_its_record_and_first_in_its_report(
    tmp_path: Path, authority: Authority
) -> None:
    locust = ("locust", "-f", "locustfiles/sdk_retries.py", "--headless", "--run-time", "1s", "--users", "2")
    with serving(answers(openai_shaped(seconds=0.05)), tls=authority.server("elsewhere.example")) as server:
        settings = settings_of(server.url, HEADROOM_RESULTS=str(tmp_path), LOCUST_INSECURE_SKIP_VERIFY="1")
        refused = run(*locust, settings=settings)
        done = run(*locust, "--insecure-skip-verify", settings=settings)
    assert (refused.returncode, done.returncode) == (3, 0)
    assert "CERTIFICATES ARE NOT VERIFIED" in done.stderr and "CERTIFICATES" not in refused.stderr
    folder = only_run(tmp_path)
    assert [one["tls_verified"] for one in json.loads((folder / "run.json").read_text())["targets"]] == [False]
    assert {call.outcome for call in read_calls(folder).calls} == {"ok"}
    # The application's calls, too.
    (file,) = folder.glob("application-*.jsonl")
    assert "error.type" not in file.read_text()
    assert "CERTIFICATES WERE NOT VERIFIED" in invoked(str(folder)).stdout
    page = (folder / "report.html").read_text()
    assert 0 < page.find("CERTIFICATES WERE NOT VERIFIED") < page.find("<h1>")


def test_a_run_goes_over_tls_with_connections_that_are_used_again(tmp_path: Path, authority: Authority) -> None:
    with serving(answers(openai_shaped(seconds=0.05)), tls=authority.server("127.0.0.1")) as server:
        settings = settings_of(server.url, SSL_CERT_FILE=str(authority.file), HEADROOM_RESULTS=str(tmp_path))
        done = run("locust", "--headless", "--run-time", "1s", "--users", "3", settings=settings)
        connections = server.connections
    assert done.returncode == 0, done.stderr
    calls = read_calls(only_run(tmp_path)).calls
    assert {call.outcome for call in calls} == {"ok"}
    # One of the check before the run, and one of each user.
    assert connections == 4 < len(calls)
    assert [call.tls is not None for call in calls].count(True) == 4
