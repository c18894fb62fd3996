from pathlib import Path

import pytest

from probe.target import SettingsError, Target, configured, is_loopback

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


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_loopback_in_all_its_spellings_may_be_called_without_tls(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["localhost.evil.example", "0.0.0.0", "10.0.0.1", "169.254.169.254", "::"])
def test_what_is_no_loopback_is_not_taken_for_one(host: str) -> None:
    assert not is_loopback(host)
