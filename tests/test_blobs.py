"""A storage account of the simulator, by azure-storage-blob as it is, and our way to its containers."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.identity import ManagedIdentityCredential
from azure.storage.blob import BlobServiceClient, ContainerClient, ExponentialRetry

from probe.blobs import container
from probe.client import Client
from probe.errors import SettingsError
from probe.prompts import numbered
from simulator.azure.blobs import Account
from simulator.azure.certificates import Certificates
from simulator.azure.identity import Issuer
from simulator.config import Role
from tests.simulators import AT_ONCE, Simulated, simulating
from tests.test_simulator_identity import MACHINE, serving

CONFIG = (
    """
[resources.one]
region = "East US"
[resources.one.deployments.chat]
model = "gpt-4.1-mini-2025-04-14"
[storage]
account = "headroomlogs"
"""
    + AT_ONCE
)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    with simulating(tmp_path_factory.mktemp("blobs"), CONFIG) as running:
        yield running


@pytest.fixture
def environ(simulated: Simulated, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """This process has the simulated managed identity."""
    host = simulated.ready["identity"]["AZURE_POD_IDENTITY_AUTHORITY_HOST"]
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", host)
    return {"HEADROOM_CA_BUNDLE": simulated.ready["ca"], "HEADROOM_CREDENTIAL": "managed"}


@pytest.fixture
def blobs(simulated: Simulated, environ: dict[str, str]) -> Iterator[ContainerClient]:
    with container(simulated.ready["storage"]["container"], environ) as client:
        yield client
        for name in list(client.list_blob_names()):
            client.delete_blob(name)


def test_what_is_put_there_comes_back_whole_and_in_parts(simulated: Simulated, blobs: ContainerClient) -> None:
    large = os.urandom(9 * 1024 * 1024)
    blobs.upload_blob("runs/one/calls.jsonl", b"one\ntwo\n")
    blobs.get_blob_client("runs/empty").upload_blob(b"")
    # The SDK sends it in blocks, and fetches it in ranges.
    parts: Any = {"max_single_put_size": 1024, "max_block_size": 4 * 1024 * 1024, "max_single_get_size": 1024 * 1024}
    parts |= {"connection_verify": simulated.ready["ca"], "credential": ManagedIdentityCredential()}
    with ContainerClient.from_container_url(blobs.url, **parts) as in_parts:
        in_parts.upload_blob("runs/one/large", large, max_concurrency=2)
        assert in_parts.download_blob("runs/one/large", max_concurrency=2).readall() == large
    assert blobs.download_blob("runs/one/calls.jsonl").readall() == b"one\ntwo\n"
    assert blobs.download_blob("runs/one/calls.jsonl", offset=4, length=3).readall() == b"two"
    assert blobs.download_blob("runs/empty").readall() == b""
    assert {blob.name: blob.size for blob in blobs.list_blobs(name_starts_with="runs/one/")} == {
        "runs/one/calls.jsonl": 8,
        "runs/one/large": len(large),
    }


def test_a_listing_comes_in_pages_and_by_folder(blobs: ContainerClient) -> None:
    for name in ("b/2", "a", "b/1", "c ü&<%"):
        blobs.upload_blob(name, b"")
    pages = [[blob.name for blob in page] for page in blobs.list_blobs(results_per_page=3).by_page()]
    assert pages == [["a", "b/1", "b/2"], ["c ü&<%"]]
    assert {one.name for one in blobs.walk_blobs()} == {"a", "b/", "c ü&<%"}


def test_what_is_there_is_not_overwritten_unawares_and_an_append_has_its_place(blobs: ContainerClient) -> None:
    blobs.upload_blob("kept", b"first")
    with pytest.raises(ResourceExistsError):
        blobs.upload_blob("kept", b"second")
    blobs.upload_blob("kept", b"third", overwrite=True)
    assert blobs.download_blob("kept").readall() == b"third"
    log = blobs.get_blob_client("log")
    log.create_append_blob()
    log.append_block(b"one\n")
    log.append_block(b"two\n", appendpos_condition=4)
    with pytest.raises(HttpResponseError, match="AppendPositionConditionNotMet"):
        log.append_block(b"two\n", appendpos_condition=4)
    assert log.download_blob().readall() == b"one\ntwo\n"
    with pytest.raises(ResourceNotFoundError):
        blobs.get_blob_client("nowhere").append_block(b"x")
    with pytest.raises(HttpResponseError, match="InvalidBlobType"):
        blobs.get_blob_client("kept").append_block(b"x")


@pytest.mark.parametrize("name", ["../ledger.jsonl", "a/../../ledger.jsonl", "a//b", "a\\b", "kept/below", "x" * 300])
def test_no_name_leads_out_of_its_container(blobs: ContainerClient, name: str) -> None:
    blobs.upload_blob("kept", b"")
    with pytest.raises(HttpResponseError):
        blobs.upload_blob(name, b"x", overwrite=True)
    assert list(blobs.list_blob_names()) == ["kept"]


def test_the_diagnostic_logs_are_blobs_of_their_own_containers(simulated: Simulated, environ: dict[str, str]) -> None:
    client = Client()
    call = client.observe(simulated.target("one"), numbered(1, 32, 4), stream=False)
    client.close()
    simulated.line_of(str(call.service_request_id))
    with container(simulated.ready["storage"]["account"] + "/insights-logs-requestresponse", environ) as logs:
        (blob,) = logs.list_blobs()
        read = logs.download_blob(blob.name).readall()
    assert blob.name.startswith("resourceId=/SUBSCRIPTIONS/") and blob.name.endswith("/m=00/PT1H.json")
    assert str(call.service_request_id).encode() in read


class Bearer:
    def __init__(self, token: str) -> None:
        self._token = token

    def get_token(self, *_: str, **__: Any) -> Any:
        from azure.core.credentials import AccessToken

        return AccessToken(self._token, 2**40)


def test_what_a_token_may_do_is_its_role(tmp_path: Path) -> None:
    authority, issuer = Certificates(tmp_path), Issuer(lambda: 0.0)
    roles: dict[str, Role] = {"writable": "contributor", "readable": "reader", "closed": "none"}
    accounts = [
        Account(name, tmp_path / "logs", tmp_path / "blobs", role, issuer, lambda: 0.0) for name, role in roles.items()
    ]
    accounts[0].create("results")
    routes = [route for account in accounts for route in account.routes()]
    with serving(routes, authority.server_context()) as url:

        def asking(account: str, audience: str = "https://storage.azure.com") -> BlobServiceClient:
            return BlobServiceClient(
                f"{url}/{account}",
                credential=Bearer(issuer.issue(audience, MACHINE).text),
                connection_verify=str(authority.file),
                retry_policy=ExponentialRetry(retry_total=0),
            )

        asking("writable").get_container_client("results").upload_blob("one", b"1")
        assert [one.name for one in asking("readable").list_containers()] == ["results"]
        readable = asking("readable").get_container_client("results")
        assert readable.download_blob("one").readall() == b"1"
        with pytest.raises(HttpResponseError, match="AuthorizationPermissionMismatch"):
            readable.upload_blob("two", b"2")
        with pytest.raises(HttpResponseError, match="AuthorizationPermissionMismatch"):
            asking("closed").get_container_client("results").download_blob("one")
        with pytest.raises(ClientAuthenticationError):
            asking("writable", "https://cognitiveservices.azure.com").get_container_client("results").get_blob_client(
                "one"
            ).download_blob()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://somewhere.example/account/container", "no blob container of Azure"),
        ("https://account.blob.core.windows.net", "the container is not named"),
        ("https://account.blob.core.windows.net/a/b", "the container is not named"),
        ("http://account.blob.core.windows.net/a", "https"),
        (
            "https://account.blob.core.windows.net/a?sv=2024&sig=c2VjcmV0c2VjcmV0",
            "leave the shared access signature out",
        ),
        ("{account}/nowhere", "there is no such container"),
    ],
)
def test_a_container_that_is_not_to_be_had_is_one_line(
    simulated: Simulated, environ: dict[str, str], url: str, says: str
) -> None:
    with (
        pytest.raises(SettingsError, match=says) as refused,
        container(url.format(account=simulated.ready["storage"]["account"]), environ) as client,
    ):
        list(client.list_blobs())
    assert "\n" not in str(refused.value) and "c2VjcmV0c2VjcmV0" not in str(refused.value)


def test_a_failed_sign_in_is_one_line_at_once(simulated: Simulated, environ: dict[str, str]) -> None:
    environ["HEADROOM_CREDENTIAL"] = "environment"
    with (
        pytest.raises(SettingsError, match="no Microsoft Entra token"),
        container(simulated.ready["storage"]["container"], environ),
    ):
        pass
