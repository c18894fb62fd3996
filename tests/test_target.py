from pathlib import Path

import pytest

from probe.hosts import is_loopback
from probe.target import SettingsError, Target, configured

ENVIRONMENT = {
    "AZURE_OPENAI_ENDPOINT": "https://contoso-east.openai.azure.com/",
    "AZURE_OPENAI_API_KEY": "made-up-key",
    "AZURE_OPENAI_DEPLOYMENT": "chat",
    "OPENAI_API_VERSION": "2024-10-21",
}


def only(environment: dict[str, str], folder: Path = Path("/nonexistent")) -> Target:
    (target,) = configured(environment, folder).values()
    return target


def test_four_variables_make_a_target_named_after_the_resource() -> None:
    target = only(ENVIRONMENT)
    assert (target.name, target.gateway, target.host, target.port, target.tls) == (
        "contoso-east",
        "direct",
        "contoso-east.openai.azure.com",
        443,
        True,
    )
    assert target.path == "/openai/deployments/chat/chat/completions?api-version=2024-10-21"


def test_without_a_version_calls_go_to_the_v1_path() -> None:
    assert only({**ENVIRONMENT, "OPENAI_API_VERSION": ""}).path == "/openai/v1/chat/completions"


def test_a_host_of_api_management_is_a_gateway_unless_said_otherwise() -> None:
    gateway = {**ENVIRONMENT, "AZURE_OPENAI_ENDPOINT": "https://contoso.azure-api.net/ai"}
    assert only(gateway).gateway == "apim"
    assert only(gateway).path.startswith("/ai/openai/deployments/")
    assert only({**gateway, "HEADROOM_GATEWAY": "direct"}).gateway == "direct"


def test_a_deployments_name_cannot_change_the_path() -> None:
    path = only({**ENVIRONMENT, "AZURE_OPENAI_DEPLOYMENT": "a b/../c?d"}).path
    assert path.startswith("/openai/deployments/a%20b%2F..%2Fc%3Fd/chat/completions?api-version=")


def test_the_simulator_can_be_asked_for_whatever_is_configured() -> None:
    assert configured({**ENVIRONMENT, "HEADROOM_SIMULATE": "1"}) == {}
    assert configured({**ENVIRONMENT, "HEADROOM_SIMULATE": "0"}) != {}


def test_nothing_configured_means_no_targets() -> None:
    assert configured({}, Path("/nonexistent")) == {}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"AZURE_OPENAI_API_KEY": ""}, "AZURE_OPENAI_API_KEY is not set"),
        ({"AZURE_OPENAI_API_KEY": "a\r\nb"}, "characters no key has"),
        ({"AZURE_OPENAI_DEPLOYMENT": ""}, "AZURE_OPENAI_DEPLOYMENT is not set"),
        ({"AZURE_OPENAI_DEPLOYMENT": "a\x1bb"}, "deployment"),
        ({"AZURE_OPENAI_ENDPOINT": "contoso.openai.azure.com"}, "no http(s) URL"),
        ({"AZURE_OPENAI_ENDPOINT": "ftp://contoso.openai.azure.com"}, "no http(s) URL"),
        ({"AZURE_OPENAI_ENDPOINT": "https://[::1"}, "no URL"),
        ({"AZURE_OPENAI_ENDPOINT": "https://host:99999"}, "no URL"),
        ({"AZURE_OPENAI_ENDPOINT": "https://key@contoso.openai.azure.com"}, "scheme, host, port and path alone"),
        ({"AZURE_OPENAI_ENDPOINT": "https://contoso.openai.azure.com/?a=b"}, "scheme, host, port and path alone"),
        ({"AZURE_OPENAI_ENDPOINT": "http://contoso.openai.azure.com"}, "only sent over https"),
        ({"AZURE_OPENAI_ENDPOINT": ""}, "AZURE_OPENAI_ENDPOINT is not"),
        ({"OPENAI_API_VERSION": "2024/10"}, "OPENAI_API_VERSION"),
        ({"HEADROOM_GATEWAY": "proxy"}, "gateway"),
        ({"HEADROOM_KEY_HEADER": "api-key: x\r\nHost"}, "is no header's name"),
        ({"HEADROOM_AUTH": "password"}, "HEADROOM_AUTH"),
        ({"HEADROOM_TARGETS_FILE": "/nonexistent/targets.toml"}, "/nonexistent/targets.toml"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(changes: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError) as failure:
        configured({**ENVIRONMENT, **changes}, Path("/nonexistent"))
    assert says in str(failure.value)
    assert "\n" not in str(failure.value)
    assert "made-up-key" not in str(failure.value)


FILE = """
[east]
endpoint = "https://contoso-east.openai.azure.com"
deployment = "chat"
api_version = "2024-10-21"
api_key_env = "EAST_KEY"

[gateway]
endpoint = "https://contoso.azure-api.net/ai"
deployment = "chat"
key_header = "Ocp-Apim-Subscription-Key"
api_key_env = "GATEWAY_KEY"
"""
KEYS = {"EAST_KEY": "e", "GATEWAY_KEY": "g"}


def test_a_file_names_several_targets_and_the_variables_that_hold_their_keys(tmp_path: Path) -> None:
    (tmp_path / "targets.toml").write_text(FILE)
    found = configured(KEYS, tmp_path)
    assert [(one.name, one.gateway, one.api_key, one.api_version) for one in found.values()] == [
        ("east", "direct", "e", "2024-10-21"),
        ("gateway", "apim", "g", "v1"),
    ]
    assert found["gateway"].key_header == "Ocp-Apim-Subscription-Key"


def test_the_endpoint_in_the_environment_wins_over_the_file_and_a_named_file_over_both(tmp_path: Path) -> None:
    (tmp_path / "targets.toml").write_text(FILE)
    assert list(configured({**KEYS, **ENVIRONMENT}, tmp_path)) == ["contoso-east"]
    named = {"HEADROOM_TARGETS_FILE": str(tmp_path / "targets.toml")}
    assert list(configured({**KEYS, **ENVIRONMENT, **named}, Path("/nonexistent"))) == ["east", "gateway"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no targets in it"),
        ("[east", "targets.toml"),
        (FILE.replace("endpoint", "endpont", 1), "endpont"),
        (FILE.replace("deployment", "deploymnt", 1), "did you mean deployment?"),
        (FILE.replace("api_key_env", "api_key", 1), "a key is not written here"),
        (FILE.replace('EAST_KEY"', 'EAST_KEY"\napi_key_file = "x"'), "exclude each other"),
        (FILE.replace("gateway]\n", 'gateway]\ngateway = "squid"\n'), "[gateway]"),
        (FILE.replace("EAST_KEY", "MISSING"), "the variable MISSING"),
        (FILE.replace('"chat"', '""', 1), "deployment '' is no name"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "targets.toml").write_text(text)
    with pytest.raises(SettingsError) as failure:
        configured(KEYS, tmp_path)
    assert says in str(failure.value)
    assert "\n" not in str(failure.value)


def test_a_key_is_in_no_text_made_of_a_target() -> None:
    target = only(ENVIRONMENT)
    assert "made-up-key" not in repr(target) + str(target) + str(target.public())


@pytest.mark.parametrize(
    "host",
    [
        "contoso.openai.azure.com",
        "CONTOSO.OpenAI.Azure.com",
        "contoso.privatelink.openai.azure.com",
        "contoso.cognitiveservices.azure.com",
        "contoso.services.ai.azure.com",
        "contoso.azure-api.net",
        "contoso.openai.azure.us",
        "contoso.azure-api.us",
        "contoso.openai.azure.cn",
        "contoso.azure-api.cn",
        "127.0.0.1:8443",
        "[::1]:8443",
        "localhost:8443",
    ],
)
def test_azures_hosts_and_loopback_may_have_the_key(host: str) -> None:
    assert only({**ENVIRONMENT, "AZURE_OPENAI_ENDPOINT": f"https://{host}"}).endpoint == f"https://{host}"


STRANGERS = [
    "evil-openai.azure.com.evil.tld",
    "openai.azure.com",
    "openai.azure.com.evil.tld",
    "evilopenai.azure.com",
    "contoso.openai.azure.com@evil.tld",
    "contoso.openai.azure.com:443@evil.tld",
    "evil.tld#.openai.azure.com",
    "evil.tld?.openai.azure.com",
    "evil.tld\\.openai.azure.com",
    "evil.tld%2f.openai.azure.com",
    "contoso.openai.azure.com.",
    "contoso.\u043epenai.azure.com",
    "contoso.xn--penai-0nf.azure.com",
    "contoso.openai.azure\u3002com",
    "localhost.evil.tld",
    "127.0.0.1.evil.tld",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "127.1",
    "0177.0.0.1",
    "10.0.0.4",
    "169.254.169.254",
    "2852039166",
    "0xa9fea9fe",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[fe80::1]",
    "168.63.129.16",
    "0.0.0.0",
    "[::]",
]


@pytest.mark.parametrize("host", STRANGERS)
def test_a_stranger_is_refused_before_anything_is_sent(host: str) -> None:
    for scheme in ("https", "http"):
        with pytest.raises(SettingsError) as failure:
            only({**ENVIRONMENT, "AZURE_OPENAI_ENDPOINT": f"{scheme}://{host}"})
        assert "\n" not in str(failure.value)


NEVER = ["169.254.169.254", "0xa9fea9fe", "2852039166", "[::ffff:a9fe:a9fe]", "[fe80::1]", "168.63.129.16", "0.0.0.0"]


@pytest.mark.parametrize("host", NEVER)
def test_a_metadata_services_address_is_refused_also_where_a_user_names_it(host: str) -> None:
    named = {"AZURE_OPENAI_ENDPOINT": f"https://{host}", "HEADROOM_ALLOW_HOST": host.strip("[]")}
    with pytest.raises(SettingsError):
        only({**ENVIRONMENT, **named})


@pytest.mark.parametrize(
    ("allowed", "host", "may"),
    [
        ("ai.contoso.example", "ai.contoso.example", True),
        ("other.example, AI.contoso.example", "ai.contoso.example", True),
        ("*.contoso.example", "ai.contoso.example", True),
        ("*.contoso.example", "contoso.example", False),
        ("*.contoso.example", "aicontoso.example", False),
        ("contoso.example", "ai.contoso.example", False),
        ("*", "evil.tld", False),
        ("*.tld", "evil.tld", False),
        ("10.0.0.4", "10.0.0.4", True),
    ],
)
def test_a_domain_of_ones_own_is_named_and_nothing_else_comes_with_it(allowed: str, host: str, may: bool) -> None:
    settings = {**ENVIRONMENT, "AZURE_OPENAI_ENDPOINT": f"https://{host}", "HEADROOM_ALLOW_HOST": allowed}
    if may:
        assert only(settings).host == host
    else:
        with pytest.raises(SettingsError, match="--allow-host"):
            only(settings)


def test_a_key_comes_from_a_file_and_that_others_can_read_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "key"
    file.write_text("made-up-key\n")
    file.chmod(0o600)
    settings = {**ENVIRONMENT, "AZURE_OPENAI_API_KEY": "", "AZURE_OPENAI_API_KEY_FILE": str(file)}
    assert only(settings).api_key == "made-up-key" and capsys.readouterr().err == ""
    file.chmod(0o644)
    assert only(settings).api_key == "made-up-key"
    said = capsys.readouterr().err
    assert "chmod 600" in said and said.count("\n") == 1 and "made-up-key" not in said


def test_a_file_of_targets_names_files_of_keys_from_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("made-up-key")
    (tmp_path / "targets.toml").write_text(FILE.replace('api_key_env = "EAST_KEY"', 'api_key_file = "key"'))
    assert configured(KEYS, tmp_path)["east"].api_key == "made-up-key"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"AZURE_OPENAI_API_KEY_FILE": "/nonexistent/key"}, "AZURE_OPENAI_API_KEY and AZURE_OPENAI_API_KEY_FILE"),
        ({"AZURE_OPENAI_API_KEY": "", "AZURE_OPENAI_API_KEY_FILE": "/nonexistent/key"}, "/nonexistent/key: No such"),
        ({"AZURE_OPENAI_API_KEY": "", "AZURE_OPENAI_API_KEY_FILE": "/etc/passwd"}, "the key alone"),
        ({"AZURE_OPENAI_API_KEY": "", "HEADROOM_API_KEY_KEYRING": "no-user"}, "SERVICE/USER"),
        ({"HEADROOM_CA_BUNDLE": "/nonexistent/ca.pem"}, "/nonexistent/ca.pem: No such"),
        ({"HEADROOM_CA_BUNDLE": "/etc/passwd"}, "no certificates"),
        ({"SSL_CERT_FILE": "/nonexistent/ca.pem"}, "SSL_CERT_FILE: /nonexistent/ca.pem"),
        ({"HEADROOM_EXTRA_HEADERS": '{"x-pass word": "made-up-secret"}'}, "is no header"),
        ({"AZURE_OPENAI_ENDPOINT": "ftp://user:made-up-secret@contoso.example"}, "no http(s) URL"),
    ],
)
def test_a_wrong_setting_of_trust_is_named_without_the_secret(changes: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError) as failure:
        only({**ENVIRONMENT, **changes})
    assert says in str(failure.value) and "made-up" not in str(failure.value) and "\n" not in str(failure.value)


def test_a_key_comes_from_the_systems_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = pytest.importorskip("keyring")
    from keyring.backend import KeyringBackend

    class Ring(KeyringBackend):
        priority = 1

        def get_password(self, service: str, username: str) -> str | None:
            return "made-up-key" if (service, username) == ("azure/openai", "me") else None

        def set_password(self, service: str, username: str, password: str) -> None: ...

        def delete_password(self, service: str, username: str) -> None: ...

    before = keyring.get_keyring()
    keyring.set_keyring(Ring())  # type: ignore[no-untyped-call]
    settings = {**ENVIRONMENT, "AZURE_OPENAI_API_KEY": "", "HEADROOM_API_KEY_KEYRING": "azure/openai/me"}
    try:
        assert only(settings).api_key == "made-up-key"
        with pytest.raises(SettingsError, match="keyring set elsewhere me"):
            only({**settings, "HEADROOM_API_KEY_KEYRING": "elsewhere/me"})
        monkeypatch.setitem(__import__("sys").modules, "keyring", None)
        with pytest.raises(SettingsError, match=r"pip install 'aoai-headroom\[keyring\]'"):
            only(settings)
    finally:
        keyring.set_keyring(before)


def test_what_a_user_gives_to_be_sent_besides_is_masked_where_a_target_is_written_down() -> None:
    given = {
        "HEADROOM_EXTRA_HEADERS": '{"x-team": "made-up-team"}',
        "HEADROOM_EXTRA_BODY": '{"temperature": 0, "user": "made-up-user"}',
    }
    shown = only({**ENVIRONMENT, **given}).public()
    assert shown["headers"] == {"x-team": "***"} and shown["body"] == {"temperature": 0, "user": "***"}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_loopback_in_all_its_spellings_may_be_called_without_tls(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["localhost.evil.example", "0.0.0.0", "10.0.0.1", "169.254.169.254", "::"])
def test_what_is_no_loopback_is_not_taken_for_one(host: str) -> None:
    assert not is_loopback(host)
