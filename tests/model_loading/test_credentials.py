"""A replica's process has its own model's credentials, and they reach its own server only."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from certificates import Authority, authority
from mlflow_server import free_port

from rayfleet_serving.config import ModelArgs, ModelIdentity
from rayfleet_serving.digest import tree_digest
from rayfleet_serving.model.app import _load
from rayfleet_serving.model.cache import ModelCache
from rayfleet_serving.model.credentials import OwnCredentials
from rayfleet_serving.model.download import stored_bytes
from rayfleet_serving.model.errors import LoadError

Seen = list[tuple[str, str | None]]
"""Path and Authorization header of each request."""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A replica changes its process's environment for good; here it is put back."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(("MLFLOW_TRACKING", "AWS_", "GOOGLE_", "AZURE_")):
            del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    folder = tmp_path / "credentials"
    folder.mkdir()
    os.environ["RAYFLEET_CREDENTIALS_DIR"] = str(folder)
    return folder


def mount(folder: Path, files: dict[str, str]) -> None:
    """As the kubelet does: all at once, by a link that points to another folder."""
    data = folder / f"..data_{len(list(folder.glob('..data_*')))}"
    data.mkdir()
    for name, text in files.items():
        (data / name).write_text(text)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    link = folder / "..new"
    link.symlink_to(data.name)
    link.rename(folder / "..data")


def own(name: str = "digits", tracking_uri: str | None = None, *, credentials: bool = True) -> OwnCredentials:
    identity = ModelIdentity(version="1", model_id="m-1", artifact_uri="mlflow-artifacts:/1")
    return OwnCredentials.of(
        ModelArgs(name=name, identity=identity, tracking_uri=tracking_uri, credentials=credentials)
    )


def test_a_model_has_its_own_variables_and_no_others(mounted: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    before = dict(os.environ)
    mount(
        mounted,
        {
            "digits.MLFLOW_TRACKING_TOKEN": "t0ken\n",
            "digits.AWS_REGION": "eu-central-1",
            "digits.S3_ENDPOINT": "",
            "digits.LD_PRELOAD": "s3cr3t.so",
            "digits.MLFLOW_TRACKING_URI": "http://s3cr3t",
            "digits.AWS_aws": "s3cr3t",
            "digits-2.AZURE_STORAGE_ACCOUNT_KEY": "s3cr3t",
            "digit.AZURE_STORAGE_ACCOUNT_KEY": "s3cr3t",
            "faces.GOOGLE_APPLICATION_CREDENTIALS": "s3cr3t",
        },
    )
    assert own().take()
    assert {name: value for name, value in os.environ.items() if before.get(name) != value} == {
        "MLFLOW_TRACKING_TOKEN": "t0ken",
        "AWS_REGION": "eu-central-1",
        "S3_ENDPOINT": "",
    }
    for ignored in ("LD_PRELOAD", "MLFLOW_TRACKING_URI", "AWS_aws"):
        assert f"Ignored {ignored} of the credentials of digits" in caplog.text
    assert "s3cr3t" not in caplog.text


def test_a_key_file_of_google_is_named_by_its_variable(mounted: Path) -> None:
    mount(mounted, {"digits.GOOGLE_APPLICATION_CREDENTIALS": '{"type": "service_account"}\n'})
    assert own().take()
    path = Path(os.environ["GOOGLE_APPLICATION_CREDENTIALS"])
    assert path.read_text() == '{"type": "service_account"}\n'


def test_the_pods_credentials_of_the_same_kind_do_not_mix_with_the_models(mounted: Path) -> None:
    os.environ.update(
        {
            "MLFLOW_TRACKING_URI": "http://default:5000",
            "MLFLOW_TRACKING_USERNAME": "pod",
            "MLFLOW_TRACKING_PASSWORD": "pod",
            "AWS_SESSION_TOKEN": "pod",
            "AWS_REGION": "eu-central-1",
            "GOOGLE_SERVICE_ACCOUNT": "pod",
        }
    )
    mount(mounted, {"digits.MLFLOW_TRACKING_TOKEN": "own", "digits.AWS_ACCESS_KEY_ID": "own"})
    assert own(tracking_uri="http://own:5000").take()
    assert "MLFLOW_TRACKING_USERNAME" not in os.environ
    assert "MLFLOW_TRACKING_PASSWORD" not in os.environ
    assert "AWS_SESSION_TOKEN" not in os.environ
    assert os.environ["AWS_REGION"] == "eu-central-1"
    assert os.environ["GOOGLE_SERVICE_ACCOUNT"] == "pod"
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://own:5000"


def test_certificates_to_trust_win_over_trusting_anybody(mounted: Path) -> None:
    os.environ["MLFLOW_TRACKING_INSECURE_TLS"] = "true"
    mount(mounted, {"digits.ca.crt": "pem", "digits.MLFLOW_TRACKING_INSECURE_TLS": "true"})
    assert own().take()
    assert Path(os.environ["MLFLOW_TRACKING_SERVER_CERT_PATH"]).read_text() == "pem"
    assert "MLFLOW_TRACKING_INSECURE_TLS" not in os.environ


def test_what_the_kubelet_brings_late_is_waited_for(mounted: Path, caplog: pytest.LogCaptureFixture) -> None:
    credentials = own()
    waiting = threading.Thread(target=credentials.require, args=(60.0,))
    waiting.start()
    mount(mounted, {"digits-2.MLFLOW_TRACKING_TOKEN": "other"})
    mount(mounted, {"digits.MLFLOW_TRACKING_TOKEN": "own"})
    waiting.join(30.0)
    assert not waiting.is_alive()
    assert os.environ["MLFLOW_TRACKING_TOKEN"] == "own"


def test_what_never_comes_is_named(mounted: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(LoadError) as missing:
        own().require(0.1)
    assert missing.value.reason == "CredentialsMissing"
    assert f"{mounted} holds no file digits.…" in missing.value.message
    assert "ModelDeployment digits" in missing.value.message
    assert "Waiting up to 0.1 s for the credentials of digits" in caplog.text


def test_without_the_folder_or_the_need_the_environment_is_left_alone(mounted: Path) -> None:
    mount(mounted, {"digits.MLFLOW_TRACKING_TOKEN": "own"})
    none_expected = own(credentials=False)
    del os.environ["RAYFLEET_CREDENTIALS_DIR"]
    os.environ["MLFLOW_TRACKING_TOKEN"] = "pod"
    for credentials in (none_expected, own()):
        credentials.require(0.0)
        assert os.environ["MLFLOW_TRACKING_TOKEN"] == "pod"


def test_a_version_in_the_cache_needs_no_credentials(mounted: Path, tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.mkdir()
    (source / "MLmodel").write_text("flavors: {}\n")
    digest = tree_digest(source)
    identity = ModelIdentity(version="1", model_id=digest.replace(":", "-"), artifact_uri=str(source), digest=digest)
    os.environ["RAYFLEET_CACHE_DIR"] = str(tmp_path / "cache")
    asked: list[None] = []
    for _ in range(2):
        ModelCache().fetch(identity, None, lambda: asked.append(None))
    assert len(asked) == 1, "before the download, and not before the second use"

    with pytest.raises(LoadError) as refused:  # of its flavors, so it was fetched
        _load(ModelArgs(name="digits", identity=identity, credentials=True))
    assert refused.value.reason != "CredentialsMissing"


@pytest.fixture
def trusted(tmp_path: Path) -> Authority:
    return authority(tmp_path / "tls")


@pytest.fixture
def listener(trusted: Authority) -> Iterator[tuple[str, Seen]]:
    """A TLS server that has nothing, and what it was shown."""
    seen: Seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers["Authorization"]))
            self.send_error(404)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = trusted.server.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_models_token_reaches_its_own_server_and_the_pods_does_not(
    mounted: Path, trusted: Authority, listener: tuple[str, Seen]
) -> None:
    uri, seen = listener
    os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{free_port()}"
    os.environ["MLFLOW_TRACKING_TOKEN"] = "pod"
    mount(mounted, {"digits.ca.crt": trusted.pem})
    own(tracking_uri=uri).require(0.0)
    with pytest.raises(LoadError):
        stored_bytes("mlflow-artifacts:/1/models", uri)
    mount(mounted, {"digits.ca.crt": trusted.pem, "digits.MLFLOW_TRACKING_TOKEN": "own"})
    own(tracking_uri=uri).require(0.0)
    with pytest.raises(LoadError):
        stored_bytes("mlflow-artifacts:/1/models", uri)
    assert seen, "its certificate is trusted"
    assert {header for _, header in seen} == {None, "Bearer own"}
    assert seen[-1][1] == "Bearer own"


def test_a_server_that_the_certificates_do_not_vouch_for_is_told_nothing(
    mounted: Path, tmp_path: Path, listener: tuple[str, Seen]
) -> None:
    uri, seen = listener
    other = authority(tmp_path / "other")
    mount(mounted, {"digits.ca.crt": other.pem, "digits.MLFLOW_TRACKING_TOKEN": "own"})
    own(tracking_uri=uri).require(0.0)
    with pytest.raises(LoadError) as refused:
        stored_bytes("mlflow-artifacts:/1/models", uri)
    assert "certificate" in refused.value.message
    assert seen == []


def test_the_log_names_no_value(mounted: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    mount(mounted, {"digits.MLFLOW_TRACKING_TOKEN": "s3cr3t", "digits.AWS_SECRET_ACCESS_KEY": "a\0s3cr3t"})
    credentials = own()
    credentials.require(0.0)
    assert "s3cr3t" not in caplog.text + repr(credentials)
    assert "AWS_SECRET_ACCESS_KEY" not in os.environ
