"""What the checks print, read from a real pseudo-terminal: nothing wider than it, everything there."""

from pathlib import Path

import pytest

from tests.commands import settings_of
from tests.terminals import on_a_terminal
from tests.test_capture import entry, har
from tests.wire import reply, sends, serving

ANSWER = reply(b'{"error":{"code":"401","message":"\x1b[2J no"}}', "401 PermissionDenied", "apim-request-id: a")


@pytest.mark.parametrize(("columns", "colour"), [(80, True), (200, False)], ids=["80-colour", "200-plain"])
@pytest.mark.parametrize(
    ("command", "ends_in", "code"),
    [
        (("doctor",), "because of credential", 4),
        (("access",), "every made-up credential is refused", 0),
        (("--sdk",), "retries_taken", 4),
        (("open", "call.har"), "249993", 0),
        (("correlate", "00000000-0000-4000-8000-00000000dead", "--logs", "."), "no record of", 7),
    ],
    ids=lambda one: one[0] if isinstance(one, tuple) else None,
)
def test_it_fits_the_terminal_and_is_coloured_unless_told_otherwise(
    command: tuple[str, ...], ends_in: str, code: int, columns: int, colour: bool, tmp_path: Path
) -> None:
    (tmp_path / "call.har").write_bytes(har(entry()))
    with serving(sends(ANSWER)) as server:
        settings = settings_of(server.url) | ({} if colour else {"NO_COLOR": "1"})
        with on_a_terminal("probe", *command, columns=columns, settings=settings, folder=tmp_path) as terminal:
            assert terminal.wait_for_end(30) == code, terminal.shown
            screen = " ".join(" ".join(terminal.lines).split())
            assert ends_in in screen and "Traceback" not in screen
            # These two have nothing that a colour would tell.
            assert terminal.coloured is (colour and command[0] not in ("correlate", "--sdk"))
            assert terminal.widest <= columns
