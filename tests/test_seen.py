import io
import stat
from pathlib import Path

from rich.console import Console

from probe.render import render_call
from probe.seen import News, remember
from tests.test_render import a_call

SESSION = "NTIuMjI1LjkyLjEwMDo0NDM=;;;d20251106080719-b3e21d87c6344f93;DR:westus;o3mev3-usw;aoai-balanced"


def test_the_first_look_at_a_target_has_no_news(tmp_path: Path) -> None:
    assert remember(a_call(headers=(("x-ms-region", "East US"),)), tmp_path / "seen.json") is None


def test_what_came_what_went_and_what_changed_since_the_last_look(tmp_path: Path) -> None:
    file = tmp_path / "state" / "seen.json"
    remember(a_call(headers=(("X-MS-Region", "East US"), ("x-old", "1"), ("x-request-id", "1"))), file)
    news = remember(a_call(headers=(("x-ms-region", "West US"), ("x-new", "1"), ("x-request-id", "2"))), file)
    assert news is not None and news.age >= 0
    assert (news.new, news.gone, news.changed) == (
        ("x-new",),
        ("x-old",),
        (("x-ms-region", "East US", "West US"),),
    )


def test_another_serving_region_is_news(tmp_path: Path) -> None:
    file = tmp_path / "seen.json"
    remember(a_call(headers=(("azureai-model-sessionid", SESSION),)), file)
    news = remember(a_call(headers=(("azureai-model-sessionid", SESSION.replace("westus", "norwayeast")),)), file)
    assert news is not None
    assert news.changed == (("azureai-model-sessionid (serving region)", "westus", "norwayeast"),)


def test_streams_and_other_targets_are_remembered_apart(tmp_path: Path) -> None:
    file = tmp_path / "seen.json"
    remember(a_call(headers=(("x-a", "1"),)), file)
    assert remember(a_call(request_stream=True, headers=(("x-b", "1"),)), file) is None
    assert remember(a_call(target="east", headers=(("x-b", "1"),)), file) is None


def test_a_refusal_is_no_news_and_is_not_remembered(tmp_path: Path) -> None:
    file = tmp_path / "seen.json"
    remember(a_call(headers=(("x-ms-region", "East US"),)), file)
    refused = a_call(outcome="auth", status_code=401, error_type="401", headers=(("www-authenticate", "x"),))
    assert remember(refused, file) is None
    news = remember(a_call(headers=(("x-ms-region", "East US"),)), file)
    assert news is not None and (news.new, news.gone, news.changed) == ((), (), ())


def test_the_file_is_the_users_own_and_holds_no_value_that_could_be_secret(tmp_path: Path) -> None:
    file = tmp_path / "state" / "seen.json"
    headers = (("set-cookie", "made-up-secret"), ("x-contoso", "made-up-secret"), ("x-ms-region", "East US"))
    remember(a_call(headers=headers), file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    kept = file.read_text()
    assert "made-up-secret" not in kept and "contoso.openai" not in kept
    assert "set-cookie" in kept and "East US" in kept


def test_a_memory_that_is_broken_or_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "seen.json"
    broken.write_text("{")
    assert remember(a_call(), broken) is None
    (tmp_path / "file").write_text("")
    assert remember(a_call(), tmp_path / "file" / "seen.json") is None


def test_news_is_on_the_sheet() -> None:
    screen = io.StringIO()
    news = News(7300.0, ("x-new\x1b",), ("x-old",), (("x-ms-region", "East US", "West US"),))
    render_call(a_call(), Console(file=screen, width=80, _environ={}), news=news)
    shown = screen.getvalue()
    assert "since the last look, 2 h ago\n  new: x-new\\x1b\n  gone: x-old\n" in shown
    assert "  changed: x-ms-region: East US became West US\n" in shown
