"""Who is shown the credentials of the environment, and which places artifacts are read from."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow_server import free_port

from rayfleet_serving.model.download import download, stored_bytes
from rayfleet_serving.model.errors import LoadError


class Listener(BaseHTTPRequestHandler):
    """Has nothing, and remembers the Authorization header of whoever asks."""

    seen: list[str | None]

    def do_GET(self) -> None:
        self.seen.append(self.headers["Authorization"])
        self.send_error(404)


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str | None]]]:
    """A server's host and port, and what it was shown."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    Listener.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"127.0.0.1:{server.server_port}", Listener.seen
    server.shutdown()
    thread.join()
    server.server_close()


PLAIN = "mlflow-artifacts:/1/models"
CASES = [
    # MLFLOW_TRACKING_URI, tracking URI of the model, artifact URI, whether the listener is shown the credentials
    ("http://{listener}", "http://{listener}", PLAIN, True),
    ("http://{listener}/", "http://{listener}/prefix", PLAIN, True),
    ("http://{listener}", None, PLAIN, True),
    (None, "http://{listener}", PLAIN, True),
    ("http://{other}", "http://{listener}", PLAIN, False),
    ("https://{listener}", "http://{listener}", PLAIN, False),
    ("http://{other}", "http://{other}", "mlflow-artifacts://{listener}/1/models", False),
    (None, "http://{other}", "mlflow-artifacts://{listener}/1/models", False),
    ("http://{other}", "http://{other}", "mlflow-artifacts://{listener}\\@{other}/1/models", False),
]


@pytest.mark.parametrize("secret", ["token", "password"])
@pytest.mark.parametrize(("default", "tracking_uri", "artifact_uri", "shown"), CASES)
def test_credentials_are_shown_to_their_own_server_only(
    default: str | None,
    tracking_uri: str | None,
    artifact_uri: str,
    shown: bool,
    secret: str,
    listener: tuple[str, list[str | None]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host, seen = listener
    places = {"listener": host, "other": f"127.0.0.1:{free_port()}"}
    if default:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", default.format(**places))
    if secret == "token":
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "user")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    asked = tracking_uri.format(**places) if tracking_uri else None
    for read in (lambda uri: stored_bytes(uri, asked), lambda uri: download(uri, asked, tmp_path)):
        with pytest.raises(LoadError) as refused:
            read(artifact_uri.format(**places))
        assert refused.value.reason == "DownloadFailed"
    assert seen, refused.value.message
    assert {header is not None for header in seen} == {shown}


@pytest.mark.parametrize("scheme", ["http", "https", "ftp", "sftp", "hdfs", "dbfs", "runs", "models", "wasbs"])
def test_other_schemes_are_refused_by_name(scheme: str, tmp_path: Path) -> None:
    uri = f"{scheme}://127.0.0.1:{free_port()}/model"
    for read in (lambda: stored_bytes(uri, None), lambda: download(uri, None, tmp_path)):
        with pytest.raises(LoadError, match=f"artifacts are not read from {scheme}: URIs") as refused:
            read()
        assert refused.value.reason == "DownloadFailed"
