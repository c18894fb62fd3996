"""`probe -i`: a line to change one thing of the call, send it again and see only what changed.

Every call is on record: the session is a run like any other, in a folder that is named at its end, and `analysis` reads
it. The history of lines is kept in the user's folder for state, without those that set a header which may be a secret.
Where input is no terminal its lines are obeyed one by one.
"""

import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from rich.console import Console
from rich.text import Text

from probe.advice import EXIT_OK, advice
from probe.calling import agree, choose, client_for, patience, say, targets
from probe.client import Client
from probe.journal import Journal, JournalError, Run, end_run, start_run
from probe.listing import show
from probe.look import Settings
from probe.prompts import Prompt
from probe.record import ObservedCall
from probe.render import print_lines, render_call
from probe.secrecy import lets_act, quiet_libraries
from probe.seen import remember, state_folder
from probe.settings import Asked, header
from probe.spending import most_tokens
from probe.target import SettingsError, Target
from probe.versus import changes
from probe.watch import line

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

_MOST = 1000
_HELP = """\
send [N]              make the call, or N of them to watch the limits fall
target NAME           another target
deployment NAME       another deployment; without a name the target's own
stream on|off|both    streaming, not, or a call of either kind
max_tokens N          the most an answer may be
prompt TEXT           what is asked; without a text one of the size given at the start
header NAME: VALUE    a header to send besides; without a value it is taken away again
show                  what is set, as a command line
help, quit            Ctrl-D and Ctrl-C quit too; Ctrl-C while a call is open ends the call"""


class Session:
    """What is set, what came last, and where it is kept. `obey` takes one line."""

    def __init__(self, found: dict[str, Target], settings: Settings, stack: ExitStack) -> None:
        self.found = found
        self.target = choose(found, settings.target)
        self.asked = settings.asked
        self.ended = False
        self._timeout = settings.timeout
        self._yes = settings.yes
        # The most tokens that one `send` may come to without being asked about.
        self._agreed: dict[str, int] = {}
        self._stack = stack
        self._clients: dict[str, Client] = {}
        self._last: dict[bool, ObservedCall] = {}
        self._console = Console()
        self._kept: tuple[Run, Journal] | None = None
        self._commands: dict[str, Callable[[str], None]] = {
            "send": self._send,
            "target": self._set_target,
            "deployment": lambda text: self._set(deployment=text or None),
            "stream": self._set_stream,
            "max_tokens": lambda text: self._set(max_tokens=_whole(text)),
            "prompt": lambda text: self._set(prompt=text or None),
            "header": self._set_header,
            "show": lambda _: click.echo(self.command_line()),
            "help": lambda _: click.echo(_HELP),
            "quit": lambda _: self._quit(),
        }

    @property
    def folder(self) -> Path | None:
        return Path(self._kept[0].folder) if self._kept else None

    def obey(self, text: str) -> None:
        """Does what a line says. Raises `SettingsError`, after which everything is as it was."""
        word, _, rest = text.strip().partition(" ")
        if not word:
            return
        name = {"exit": "quit", "q": "quit", "s": "send", "?": "help", "max-tokens": "max_tokens"}.get(word, word)
        if name not in self._commands:
            raise SettingsError(f"there is no {word!r}; there are: {', '.join(self._commands)}")
        self._commands[name](rest.strip())

    def completions(self) -> dict[str, set[str] | None]:
        """What may follow each word."""
        deployments = {target.deployment for target in self.found.values()}
        follow = {"target": set(self.found), "deployment": deployments, "stream": {"on", "off", "both"}}
        headers = {"x-ms-client-request-id:", "x-ms-oai-ptu-priority:", "Apim-Debug-Authorization:"}
        return {name: {**follow, "header": headers}.get(name) for name in self._commands}

    def command_line(self) -> str:
        """The same calls without the prompt; a header that may be a secret is a variable named after it."""
        asked, plain = self.asked, Asked()
        words = ["probe", self.target.name]
        if asked.deployment is not None:
            words += ["--deployment", asked.deployment]
        if asked.stream is not None:
            words.append("--stream" if asked.stream else "--no-stream")
        for option in ("prompt", "input_tokens", "max_tokens"):
            if getattr(asked, option) != getattr(plain, option):
                words += [f"--{option.replace('_', '-')}", str(getattr(asked, option))]
        headers = (
            f'-H "{name}: ${name.upper().replace("-", "_")}"'
            if lets_act(name)
            else f"-H {shlex.quote(f'{name}: {value}')}"
            for name, value in asked.headers
        )
        return " ".join([shlex.join(words), *headers])

    def end(self) -> None:
        if self._kept is not None:
            run, journal = self._kept
            journal.close()
            end_run(run, "finished", dict(journal.counts))

    def _set(self, **changed: object) -> None:
        asked = msgspec.structs.replace(self.asked, **changed)
        asked.of(self.target)
        self.asked = asked

    def _set_target(self, name: str) -> None:
        target = choose(self.found, name or None)
        self.asked.of(target)
        self.target = target

    def _set_stream(self, text: str) -> None:
        kinds = {"on": True, "off": False, "both": None}
        if text not in kinds:
            raise SettingsError("stream takes on, off or both")
        self._set(stream=kinds[text])

    def _set_header(self, text: str) -> None:
        name, value = header(text if ":" in text else f"{text}:")
        others = tuple(one for one in self.asked.headers if one[0].lower() != name.lower())
        self._set(headers=(*others, (name, value)) if value else others)

    def _quit(self) -> None:
        self.ended = True

    def _send(self, text: str) -> None:
        times = _whole(text) if text else 1
        if times > _MOST:
            raise SettingsError(f"send takes at most {_MOST}")
        target, prompt = self.asked.of(self.target), self.asked.what()
        self._agree(target, prompt, times * len(self.asked.streams()))
        client = self._client(target)
        for _ in range(times):
            for stream in self.asked.streams():
                call = self._keep(target, lambda stream=stream: client.observe(target, prompt, stream=stream))  # type: ignore[misc]
                self._show(call, target, alone=times == 1)
                if client.interrupt is not None:
                    return

    def _agree(self, target: Target, prompt: Prompt, times: int) -> None:
        """Asks again only where it comes to more than what was agreed to for this deployment."""
        of, tokens = f"{target.name}/{target.deployment}", times * sum(most_tokens(target, prompt))
        if tokens <= self._agreed.get(of, 0):
            return
        try:
            agree([(target, prompt, times)], self._yes)
        except KeyboardInterrupt:
            raise SettingsError("nothing was sent") from None
        self._agreed[of] = tokens

    def _client(self, target: Target) -> Client:
        if target.name not in self._clients:
            self._clients[target.name] = client_for([target], self._timeout, self._stack)
        return self._clients[target.name]

    def _keep(self, target: Target, observe: Callable[[], ObservedCall]) -> ObservedCall:
        if self._kept is None:
            results = Path(os.environ.get("HEADROOM_RESULTS") or "results")
            public = {name: one.public() for name, one in self.found.items()}
            run = start_run(results, "interactive", {"targets": public})
            self._kept = run, Journal(run)
        journal = self._kept[1]
        seq = journal.send(target.name, "embeddings" if target.surface == "embeddings" else "chat")
        with patience(target, self._timeout):
            call = observe()
        return journal.append(call, seq)

    def _show(self, call: ObservedCall, target: Target, *, alone: bool) -> None:
        before = self._last.get(call.request_stream)
        self._last[call.request_stream] = call
        if not alone:
            click.echo(line(call))
        elif before is None:
            render_call(call, self._console, news=remember(call))
        else:
            self._show_changes(before, call)
        if mend := advice(call, target):
            say(mend)

    def _show_changes(self, before: ObservedCall, call: ObservedCall) -> None:
        print_lines([Text(line(call), "bold")], self._console)
        changed = [(one.what, one.ours or "-", one.theirs or "-") for one in changes(before, call)]
        if changed:
            show(self._console, ("what changed", "before", "now"), changed)


def interact(settings: Settings) -> int:
    """Reads lines until the user quits. Raises `SettingsError`."""
    quiet_libraries()
    with ExitStack() as stack:
        session = Session(targets(stack), settings, stack)
        lines = _typed(session) if sys.stdin.isatty() else (text.rstrip("\n") for text in sys.stdin)
        try:
            _obey(session, lines)
        finally:
            session.end()
            if session.folder is not None:
                say(f"kept: {session.folder}; again with: {session.command_line()}")
    return EXIT_OK


def _obey(session: Session, lines: Iterable[str]) -> None:
    for text in lines:
        try:
            session.obey(text)
        except SettingsError as error:
            say(str(error))
        except JournalError as error:
            say(str(error))
            return
        if session.ended:
            return


def _typed(session: Session) -> Iterator[str]:
    """Lines from the terminal until Ctrl-D or Ctrl-C."""
    from prompt_toolkit.completion import NestedCompleter

    prompting = _prompt_session()
    click.echo("help lists what can be changed; Tab completes; Ctrl-D quits", err=True)
    while True:
        asked = session.asked.of(session.target)
        try:
            yield prompting.prompt(
                f"{asked.name}/{asked.deployment}> ",
                completer=NestedCompleter.from_nested_dict(dict(session.completions())),
                complete_while_typing=False,
            )
        except (EOFError, KeyboardInterrupt):
            return


def _prompt_session() -> "PromptSession[str]":
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    class History(FileHistory):
        def store_string(self, string: str) -> None:
            word, _, rest = string.strip().partition(" ")
            if not (word == "header" and lets_act(rest.partition(":")[0])):
                super().store_string(string)

    file = state_folder() / "history"
    with suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        return PromptSession(history=History(str(file)))
    return PromptSession(history=InMemoryHistory())


def _whole(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) <= 1_000_000):
        raise SettingsError(f"{text!r} is no number from 1 to 1,000,000")
    return int(text)
