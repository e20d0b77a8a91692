"""Models in object stores. moto stands in for S3: real HTTP, a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from mlflow_server import free_port
from obstore.store import S3Store
from registry.asking import resolve
from registry.stand_in import http, stand_in

from rayfleet_operator.api.types import Model
from rayfleet_operator.registry.errors import RegistryError
from rayfleet_operator.registry.resolver import Resolver
from rayfleet_operator.registry.server import Bounds

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    with (tmp_path_factory.mktemp("moto") / "log").open("wb") as log:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    uri = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while not answers(f"{uri}/moto-api/data.json"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield uri
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(15)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "s3cr3t",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(s3_endpoint: str, aws: None, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """A bucket named "models" with one model at "digits/v1" and a neighbour whose name begins alike."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    httpx.post(f"{s3_endpoint}/moto-api/reset").raise_for_status()
    httpx.put(f"{s3_endpoint}/models").raise_for_status()
    bucket = S3Store("models", client_options={"allow_http": True})
    for key in ("digits/v1/MLmodel", "digits/v1/data/a b ü.pth", "digits/v10/MLmodel"):
        bucket.put(key, key.encode())
    return bucket


async def fail(uri: str) -> RegistryError:
    with pytest.raises(RegistryError) as error:
        await resolve(Resolver(bounds=Bounds(connect_s=1, total_s=3)), Model(uri=uri))
    return error.value


async def test_a_folder_is_its_listing(bucket: S3Store) -> None:
    resolver, model = Resolver(), Model(uri="s3://models/digits/v1")
    before = await resolve(resolver, model)
    assert before.artifact_uri == "s3://models/digits/v1"
    assert before.model_id == f"sha256-{before.model_id[7:]}"
    assert len(before.model_id) == 71
    assert before.version == before.model_id[7:19]
    assert before.digest is None

    await bucket.put_async("digits/v10/MLmodel", b"the neighbour changed")
    await bucket.put_async("digits/v1/MLmodel", b"digits/v1/MLmodel")  # the same bytes
    assert await resolve(resolver, model) == before

    seen = {before.model_id}
    await bucket.put_async("digits/v1/MLmodel", b"digits/v1/mlmodel")
    seen.add((await resolve(resolver, model)).model_id)
    await bucket.put_async("digits/v1/new", b"")
    seen.add((await resolve(resolver, model)).model_id)
    await bucket.delete_async("digits/v1/data/a b ü.pth")
    seen.add((await resolve(resolver, model)).model_id)
    assert len(seen) == 4


@pytest.mark.usefixtures("bucket")
async def test_what_is_not_there_is_told_apart() -> None:
    for uri, reason, says in [
        ("s3://models/digits/v2", "ArtifactNotFound", "no MLmodel object directly below it, nor any other"),
        ("s3://models/digits", "ArtifactNotFound", "among 3 objects"),
        ("s3://other-bucket/digits", "ArtifactNotFound", "no bucket or container of this name"),
    ]:
        error = await fail(uri)
        assert error.reason == reason, uri
        assert uri in error.message
        assert says in error.message


async def test_a_store_that_refuses(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    body = b"<Error><Code>SignatureDoesNotMatch</Code></Error>"
    async with stand_in(lambda _: http("403 Forbidden", body)) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.uri)
        error = await fail("s3://models/digits/v1")
    assert error.reason == "NotAllowed"
    assert "403 SignatureDoesNotMatch" in error.message
    assert "s3cr3t" not in error.message


async def test_without_the_package_it_is_said_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.exceptions", None)
    error = await fail("s3://models/digits/v1")
    assert error.reason == "ClientMissing"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    bring = {name for name, packages in extras.items() if any(each.startswith("obstore==") for each in packages)}
    assert set(re.findall(r"rayfleet\[(\w+)\]", error.message)) == bring == {"operator", "serving"}


async def test_incomplete_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    error = await fail("s3://models/digits/v1")
    assert (error.reason, "no complete credentials" in error.message) == ("NotAllowed", True)
    error = await fail("az://models/digits/v1")
    assert (error.reason, "AZURE_STORAGE_ACCOUNT_NAME" in error.message) == ("NotAllowed", True)


async def test_a_store_that_is_down_silent_or_broken(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    error = await fail("s3://models/digits/v1")
    assert (error.reason, "cannot be reached" in error.message) == ("RegistryUnreachable", True)
    async with stand_in(lambda _: None) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", silent.uri)
        error = await fail("s3://models/digits/v1")
        assert (error.reason, "within 3 s" in error.message) == ("RegistryUnreachable", True)
    async with stand_in(lambda _: http("500 Oops", b"")) as broken:
        monkeypatch.setenv("AWS_ENDPOINT_URL", broken.uri)
        error = await fail("s3://models/digits/v1")
        assert (error.reason, "answered 500" in error.message) == ("RegistryUnreachable", True)
