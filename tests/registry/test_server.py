"""Servers that are down, silent, strange or unwilling: a bounded wait, and an error that says what to do."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
import socket
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from mlflow import MlflowClient
from mlflow_server import MlflowServer, free_port
from registry.asking import resolve
from registry.models import Logged, register
from registry.stand_in import Reply, http, stand_in
from relay import Relay

from rayfleet_operator.api.types import Model, Registry
from rayfleet_operator.registry.credentials import Credentials, Tls
from rayfleet_operator.registry.errors import RegistryError, RegistryUnreachable
from rayfleet_operator.registry.resolver import Resolver
from rayfleet_operator.registry.server import Bounds

URI = "models:/net/1"
WITHIN_S = 10.0
"""Longer than any question to one registry may take. MLflow's own client takes 247 s."""

JSON = "Content-Type: application/json"
VERSION = http(
    "200 OK", json.dumps({"model_version": {"name": "net", "version": "1", "source": "s3://b/net"}}).encode()
)
LOCATION = http("200 OK", b'{"artifact_uri": "s3://b/net"}')


def healthy(head: str) -> bytes:
    return LOCATION if "get-download-uri" in head else VERSION


async def fail(resolver: Resolver, tracking_uri: str | None = None) -> RegistryError:
    model = Model(uri=URI, registry=Registry(tracking_uri=tracking_uri)) if tracking_uri else Model(uri=URI)
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(RegistryError) as error:
            await resolve(resolver, model)
    return error.value


@contextmanager
def silent_listener() -> Iterator[str]:
    """Accepts connections in the kernel, and no one ever reads them."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


async def test_a_server_that_goes_down_and_comes_back(
    server: MlflowServer, client: MlflowClient, logged: Logged
) -> None:
    register(client, "net", f"models:/{logged.first}")
    with Relay(server.port) as relay:
        resolver = Resolver(default_tracking_uri=relay.uri)
        before = await resolve(resolver, Model(uri=URI))
        relay.shut()
        error = await fail(resolver)
        assert error.reason == "RegistryUnreachable"
        assert f"{relay.uri} refuses connections" in error.message
        assert "spec.model.registry.trackingUri" in error.message
        relay.open()
        assert await resolve(resolver, Model(uri=URI)) == before


async def test_a_host_name_the_server_was_not_told(server: MlflowServer) -> None:
    error = await fail(Resolver(default_tracking_uri=f"http://localhost:{server.port}"))
    assert error.reason == "NotAllowed"
    assert "Invalid Host header" in error.message
    assert f'--allowed-hosts "localhost:{server.port}' in error.message


async def test_a_host_name_that_does_not_exist() -> None:
    error = await fail(Resolver(default_tracking_uri="http://mlflow.invalid:5000"))
    assert error.reason == "RegistryUnreachable"
    assert "http://mlflow.invalid:5000" in error.message


async def test_silence_is_bounded() -> None:
    with silent_listener() as uri:
        error = await fail(Resolver(default_tracking_uri=uri, bounds=Bounds(total_s=1.0)))
    assert error.reason == "RegistryUnreachable"
    assert "no full answer within 1 s" in error.message
    assert Bounds().total_s < WITHIN_S, "where nobody says how long"


async def test_an_answer_that_trickles_is_bounded() -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        try:
            while not reader.at_eof():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.1)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    async with server:
        uri = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        error = await fail(Resolver(default_tracking_uri=uri, bounds=Bounds(total_s=1.0)))
    assert error.reason == "RegistryUnreachable"
    assert "no full answer within 1 s" in error.message


TWICE_PACKED = gzip.compress(gzip.compress(b" " * 2**26))
"""64 MiB in a few hundred bytes."""

MISBEHAVIOUR: dict[str, tuple[Reply, str, str]] = {
    "error of the server": (
        lambda _: http("500 Oops", b'{"error_code": "INTERNAL_ERROR", "message": "database is locked"}', JSON),
        "RegistryUnreachable",
        "answered 500: database is locked",
    ),
    "an error that would clear the screen": (
        lambda _: http("500 Oops", rb'{"error_code": "INTERNAL_ERROR", "message": "\u001b[2Jlocked\u0007"}', JSON),
        "RegistryUnreachable",
        r"answered 500: \x1b[2Jlocked\x07",
    ),
    "an error nested too deeply": (
        lambda _: http("500 Oops", b"[" * 200_000, JSON),
        "RegistryUnreachable",
        "answered 500. See",
    ),
    "an error of another service": (
        lambda _: http("500 Oops", b'{"code": 7, "message": "not for you: s3cr3t"}', JSON),
        "RegistryUnreachable",
        "answered 500. See",
    ),
    "a refusal of another service": (
        lambda _: http("403 Forbidden", b'{"error_code": 7, "message": "not for you: s3cr3t"}', JSON),
        "NotAllowed",
        "does not permit reading this model. Grant READ",
    ),
    "an error code that is none": (
        lambda _: http("400 Bad", b'{"error_code": "not for you: s3cr3t", "message": "s3cr3t"}', JSON),
        "RegistryUnreachable",
        "not as an MLflow server does: 400",
    ),
    "gateway without a server": (lambda _: http("503 No", b"<html>"), "RegistryUnreachable", "answered 503"),
    "throttled": (lambda _: http("429 Slow", b""), "RegistryUnreachable", "answered 429"),
    "a web page": (lambda _: http("200 OK", b"<html>hi</html>"), "RegistryUnreachable", "not as an MLflow server does"),
    "other JSON": (lambda _: http("200 OK", b'{"a": 1}'), "RegistryUnreachable", "not as an MLflow server does"),
    "JSON that is no object": (lambda _: http("200 OK", b"[]"), "RegistryUnreachable", "not as an MLflow server does"),
    "another API": (
        lambda _: http("404 Not Found", b'{"detail": "Not Found"}', JSON),
        "RegistryUnreachable",
        "404, without an MLflow error",
    ),
    "no HTTP": (lambda _: b"SSH-2.0-OpenSSH_9\r\n", "RegistryUnreachable", "something other than HTTP"),
    "hanging up": (lambda _: b"", "RegistryUnreachable", "broke off the answer"),
    "half an answer": (
        lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        "RegistryUnreachable",
        "broke off the answer",
    ),
    "too much": (lambda _: http("200 OK", b" " * 5_000_000), "RegistryUnreachable", "more than 4194304 bytes"),
    "packed although asked not to": (
        lambda _: http("200 OK", TWICE_PACKED, "Content-Encoding: gzip, gzip"),
        "RegistryUnreachable",
        "packs its answers (content-encoding 'gzip, gzip', status 200) although it was asked not to",
    ),
    "packed by a proxy": (
        lambda _: http("401 No", gzip.compress(b"<html>"), "Content-Encoding: GZip"),
        "RegistryUnreachable",
        "a proxy in front of it, packs its answers (content-encoding 'gzip', status 401)",
    ),
    "login page": (
        lambda _: http("302 Found", b"", "Location: https://login.example/start?state=s3cr3t"),
        "RegistryUnreachable",
        "redirects to 'https://login.example/start'",
    ),
    "no permission": (
        lambda _: http("403 Forbidden", b'{"error_code": "PERMISSION_DENIED", "message": "Permission denied"}'),
        "NotAllowed",
        "does not permit reading this model: Permission denied. Grant READ",
    ),
    "an error of MLflow not known here": (
        lambda _: http("400 Bad", b'{"error_code": "NEW_ERROR", "message": "new"}'),
        "RegistryUnreachable",
        "NEW_ERROR: new",
    ),
}


@pytest.mark.parametrize("name", MISBEHAVIOUR)
async def test_what_is_wrong_is_said(name: str) -> None:
    reply, reason, says = MISBEHAVIOUR[name]
    async with stand_in(reply) as strange:
        error = await fail(Resolver(default_tracking_uri=strange.uri))
        assert error.reason == reason
        assert says in error.message
        assert strange.uri in error.message
        assert error.message.isprintable()
        assert "s3cr3t" not in error.message
        assert len(strange.requests) <= 2, "one retry at most"


async def test_nobody_asks_for_a_packed_answer_nor_unpacks_one() -> None:
    async with stand_in(lambda _: http("200 OK", TWICE_PACKED, "Content-Encoding: gzip, gzip")) as packing:
        resolver = Resolver(default_tracking_uri=packing.uri)
        tracemalloc.start()
        try:
            await fail(resolver)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert most < 2**24
    assert all("accept-encoding: identity\r\n" in head.lower() for head in packing.requests)


async def test_one_failure_is_retried() -> None:
    replies = iter([http("503 No", b""), VERSION, b"", LOCATION])
    async with stand_in(lambda _: next(replies)) as shaky:
        identity = await resolve(Resolver(default_tracking_uri=shaky.uri), Model(uri=URI))
    assert identity.artifact_uri == "s3://b/net"


def in_an_hour() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)


@pytest.mark.parametrize(
    ("status", "header", "seconds"),
    [
        ("503 No", "Retry-After: 120", 120.0),
        ("429 Slow", "Retry-After: 0", 0.0),
        ("503 No", "Retry-After: {in_an_hour}", 3600.0),
        ("503 No", "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("503 No", "Retry-After: Wed, 21 Oct 2015 07:28:00 -0000", 0.0),
        ("429 Slow", "X-Other: 1", 0.0),
        ("429 Slow", "Retry-After: soon", 0.0),
        ("503 No", "Retry-After: soon", None),
        ("503 No", "Retry-After: -1", None),
        ("503 No", f"Retry-After: {'9' * 5000}", None),
        ("503 No", f"Retry-After: Wed, 21 Oct 2099 07:28:00 +{'9' * 20}", None),
        ("503 No", "X-Other: 1", None),
    ],
)
async def test_who_asks_to_be_left_alone_is_not_tried_twice(status: str, header: str, seconds: float | None) -> None:
    header = header.replace("{in_an_hour}", in_an_hour())
    async with stand_in(lambda _: http(status, b"", header)) as busy:
        error = await fail(Resolver(default_tracking_uri=busy.uri))
    assert isinstance(error, RegistryUnreachable)
    assert error.retry_after_s == (seconds if seconds is None else pytest.approx(seconds, abs=300))
    assert len(busy.requests) == (2 if seconds is None else 1)


PASSWORD = "päss:wörd-s3cr3t"


def guarded(head: str) -> bytes:
    """A stand-in for `mlflow server --app-name basic-auth`: 401 without credentials, and with wrong ones as well."""
    right = base64.b64encode(f"alice:{PASSWORD}".encode()).decode()
    lines = head.lower().splitlines()
    if f"authorization: basic {right}".lower() in lines or "authorization: bearer t0ken" in lines:
        return healthy(head)
    return http("401 Unauthorized", b"You are not authenticated.")


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({}, "asks for credentials and got none. Set MLFLOW_TRACKING_USERNAME"),
        ({"MLFLOW_TRACKING_USERNAME": "alice"}, "asks for credentials and got none"),
        ({"MLFLOW_TRACKING_USERNAME": "alice", "MLFLOW_TRACKING_PASSWORD": "s3cr3t"}, "refuses the user 'alice'"),
        ({"MLFLOW_TRACKING_TOKEN": "s3cr3t"}, "refuses the token in MLFLOW_TRACKING_TOKEN"),
        ({"MLFLOW_TRACKING_TOKEN": "s3cr3t\r\nX-Evil: 1"}, "HTTP forbids"),
        ({"MLFLOW_TRACKING_TOKEN": "s3cr3t-é"}, "HTTP forbids"),
        ({"MLFLOW_TRACKING_USERNAME": "alice", "MLFLOW_TRACKING_PASSWORD": PASSWORD}, None),
        ({"MLFLOW_TRACKING_TOKEN": "t0ken\n"}, None),
    ],
)
async def test_credentials(environ: dict[str, str], says: str | None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with stand_in(guarded) as server:
        resolver = Resolver.from_environment({"MLFLOW_TRACKING_URI": server.uri, **environ})
        if says is None:
            assert (await resolve(resolver, Model(uri=URI))).version == "1"
        else:
            error = await fail(resolver)
            assert error.reason == "NotAllowed"
            assert says in error.message
            assert "s3cr3t" not in error.message
    assert "s3cr3t" not in repr(Credentials.from_environment(environ))
    assert "s3cr3t" not in caplog.text


@pytest.mark.parametrize("path", ["", "/mlflow"])
async def test_credentials_go_to_the_default_server_only(path: str) -> None:
    credentials = Credentials("alice", PASSWORD)
    async with stand_in(healthy) as home, stand_in(healthy) as abroad:
        resolver = Resolver(default_tracking_uri=f"{home.uri}{path}/", credentials=credentials)
        await resolve(resolver, Model(uri=URI))
        await resolve(resolver, Model(uri=URI, registry=Registry(tracking_uri=abroad.uri)))
        upper_case = home.uri.replace("http", "HTTP") + path
        await resolve(resolver, Model(uri=URI, registry=Registry.model_construct(tracking_uri=upper_case)))
        shown = [head for head in home.requests if "authorization: basic" in head.lower()]
        assert len(shown) == len(home.requests) == 4
        assert all(head.startswith(f"GET {path}/api/2.0/mlflow/") for head in shown)
        assert not any("authorization" in head.lower() for head in abroad.requests)


async def test_credentials_go_to_no_other_path_of_the_default_servers_host() -> None:
    paths = ["", "/", "/mlflow2", "/mlflow/tenant", "/tenant/mlflow", "/mlflow/../tenant", "/MLflow", "//mlflow"]
    async with stand_in(healthy) as home:
        resolver = Resolver(default_tracking_uri=f"{home.uri}/mlflow", credentials=Credentials("alice", PASSWORD))
        for path in paths:
            await resolve(resolver, Model(uri=URI, registry=Registry(tracking_uri=f"{home.uri}{path}")))
        assert len(home.requests) == 2 * len(paths)
        assert not any("authorization" in head.lower() for head in home.requests)


async def test_redirects_are_not_followed() -> None:
    async with stand_in(healthy) as other:
        away = http("307 Temporary", b"", f"Location: {other.uri}/")
        async with stand_in(lambda _: away) as server:
            resolver = Resolver(default_tracking_uri=server.uri, credentials=Credentials("alice", PASSWORD))
            error = await fail(resolver)
        assert f"redirects to '{other.uri}/'" in error.message
        assert other.requests == []


async def test_tls_that_cannot_be_trusted() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(http("400 Bad Request", b""))
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        error = await fail(Resolver(default_tracking_uri=f"https://127.0.0.1:{port}"))
    assert error.reason == "RegistryUnreachable"
    assert "No secure connection" in error.message
    tls = Tls.from_environment({"MLFLOW_TRACKING_SERVER_CERT_PATH": "/nowhere/ca.pem"})
    error = await fail(Resolver(default_tracking_uri=f"https://127.0.0.1:{free_port()}", tls=tls))
    assert error.reason == "NotAllowed"
    assert "MLFLOW_TRACKING_SERVER_CERT_PATH '/nowhere/ca.pem'" in error.message
