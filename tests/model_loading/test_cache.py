"""The cache: downloaded once, verified always, whole or absent, and usable without its source."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import mlflow
import mlflow.sklearn
import pytest
from mlflow_server import MlflowServer, free_port, mlflow_server
from moto.server import ThreadedMotoServer
from relay import Relay
from sklearn.linear_model import LinearRegression

from rayfleet_serving.config import ModelIdentity
from rayfleet_serving.digest import tree_digest
from rayfleet_serving.model.cache import ModelCache, cache_key
from rayfleet_serving.model.errors import LoadError

KEY = "sha256-" + "0" * 64


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder to download from."""
    folder = tmp_path / "source"
    (folder / "data").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {onnx: {data: data/model.onnx}}\n")
    (folder / "data" / "model.onnx").write_bytes(b"weights" * 1000)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "cache")


def identity(source: Path | str, *, model_id: str = KEY, digest: str | None = None) -> ModelIdentity:
    return ModelIdentity(version="1", model_id=model_id, artifact_uri=str(source), digest=digest)


def folder(source: Path | str, model_id: str = KEY, tracking_uri: str | None = None) -> str:
    """The name of an entry without a content digest."""
    return cache_key(identity(source, model_id=model_id), tracking_uri)


def left_behind(cache: ModelCache) -> list[str]:
    return sorted(path.name for path in cache.root.iterdir() if path.suffix != ".lock")


def test_fetch_copies_once_and_needs_its_source_no_more(source: Path, cache: ModelCache) -> None:
    wanted = identity(source, digest=tree_digest(source))
    path = cache.fetch(wanted, None)
    assert path.parent == cache.root / KEY
    assert tree_digest(path) == tree_digest(source)
    inode = (path / "MLmodel").stat().st_ino
    shutil.rmtree(source)
    assert (cache.fetch(wanted, None) / "MLmodel").stat().st_ino == inode


def test_file_uri_with_a_space(source: Path, cache: ModelCache, tmp_path: Path) -> None:
    spaced = source.rename(tmp_path / "my model")
    path = cache.fetch(identity(f"file://{tmp_path}/my%20model"), None)
    assert tree_digest(path) == tree_digest(spaced)


def truncate(entry: Path) -> None:
    os.truncate(entry / "model" / "data" / "model.onnx", 10)


def flip(entry: Path) -> None:
    file = entry / "model" / "data" / "model.onnx"
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)


def remove(entry: Path) -> None:
    (entry / "model" / "MLmodel").unlink()


def add(entry: Path) -> None:
    (entry / "model" / "data" / "model.pth").write_bytes(b"surprise")


def forget(entry: Path) -> None:
    (entry / "digest").unlink()


@pytest.mark.parametrize("damage", [truncate, flip, remove, add, forget], ids=lambda damage: damage.__name__)
def test_damaged_entry_is_downloaded_again(damage: Callable[[Path], None], source: Path, cache: ModelCache) -> None:
    cache.fetch(identity(source), None)
    damage(cache.root / folder(source))
    assert tree_digest(cache.fetch(identity(source), None)) == tree_digest(source)


@pytest.mark.parametrize("damage", [truncate, remove, forget], ids=lambda damage: damage.__name__)
def test_a_damaged_entry_stays_until_there_is_another(
    damage: Callable[[Path], None], source: Path, cache: ModelCache
) -> None:
    """Whoever reads from it goes on."""
    digest = tree_digest(source)
    entry = cache.fetch(identity(source), None).parent
    damage(entry)
    files = sorted(entry.rglob("*"))
    hidden = source.rename(source.parent / "hidden")
    with pytest.raises(LoadError, match="is not a folder on this machine"):
        cache.fetch(identity(source), None)
    assert sorted(entry.rglob("*")) == files
    assert left_behind(cache) == [folder(source)]
    hidden.rename(source)
    assert tree_digest(cache.fetch(identity(source), None)) == digest
    assert left_behind(cache) == [folder(source)]


def test_what_a_killed_replacement_left_is_removed(source: Path, cache: ModelCache) -> None:
    other = "sha256-" + "9" * 64
    for model_id in (KEY, other):
        (cache.root / f".{folder(source, model_id)}.replaced" / "model").mkdir(parents=True)
    cache.fetch(identity(source), None)
    assert left_behind(cache) == [folder(source)]


def test_entry_of_another_digest_is_not_used(source: Path, cache: ModelCache) -> None:
    cache.fetch(identity(source, digest=tree_digest(source)), None)
    (source / "MLmodel").write_text("flavors: {sklearn: {}}\n")
    path = cache.fetch(identity(source, digest=tree_digest(source)), None)
    assert tree_digest(path) == tree_digest(source)


@pytest.mark.parametrize("model_id", ["m-" + "a" * 32, KEY])
def test_one_registrys_model_is_not_taken_for_anothers_of_the_same_id(
    model_id: str, source: Path, cache: ModelCache, tmp_path: Path
) -> None:
    with (source / "MLmodel").open("a") as file:
        file.write(f"model_id: {model_id}\n")
    forged = Path(shutil.copytree(source, tmp_path / "forged"))
    (forged / "data" / "model.onnx").write_bytes(b"other weights")
    cache.fetch(identity(forged, model_id=model_id), None)
    assert tree_digest(cache.fetch(identity(source, model_id=model_id), None)) == tree_digest(source)


def test_a_content_digest_is_shared_by_every_source(source: Path, cache: ModelCache, tmp_path: Path) -> None:
    path = cache.fetch(identity(source, digest=tree_digest(source)), None)
    assert cache.fetch(identity(tmp_path / "elsewhere", digest=tree_digest(source)), "http://server") == path


def test_each_tracking_server_has_its_own_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://first")
    proxied = "mlflow-artifacts:/1/models/m-1/artifacts"
    assert folder(proxied) == folder(proxied, tracking_uri="http://first/")
    names = {folder(proxied, tracking_uri=f"http://{server}") for server in ("first", "second", "second:81", "first/b")}
    assert len(names) == 4


def test_digest_mismatch_is_refused_and_leaves_nothing(source: Path, cache: ModelCache) -> None:
    wanted = "sha256:" + "1" * 64
    with pytest.raises(LoadError, match=f"has digest {tree_digest(source)}, but {wanted} was asked for") as refused:
        cache.fetch(identity(source, digest=wanted), None)
    assert refused.value.reason == "DigestMismatch"
    assert left_behind(cache) == []


def test_another_models_id_is_refused(source: Path, cache: ModelCache) -> None:
    asked, found = "m-" + "a" * 32, "m-" + "b" * 32
    with (source / "MLmodel").open("a") as file:
        file.write(f"model_id: {found}\nmodel_uuid: {found}\n")
    with pytest.raises(LoadError, match=f"holds model {found}, but {asked}") as refused:
        cache.fetch(identity(source, model_id=asked), None)
    assert refused.value.reason == "ModelIdMismatch"
    assert left_behind(cache) == []


@pytest.mark.parametrize("key", ["../up", "a/b", ".hidden", ""])
def test_key_that_is_no_folder_name(key: str, source: Path, cache: ModelCache) -> None:
    with pytest.raises(LoadError, match="cannot name a folder"):
        cache.fetch(identity(source, model_id=key), None)


def test_source_that_is_missing(tmp_path: Path, cache: ModelCache) -> None:
    with pytest.raises(LoadError, match="is not a folder on this machine") as refused:
        cache.fetch(identity(tmp_path / "nowhere"), None)
    assert refused.value.reason == "DownloadFailed"
    assert left_behind(cache) == []


FETCH = """
import sys
from pathlib import Path
from rayfleet_serving.config import ModelIdentity
from rayfleet_serving.model.cache import ModelCache
from rayfleet_serving.model.errors import LoadError
model_id, uri, root, tracking_uri = sys.argv[1:5]
identity = ModelIdentity(version="1", model_id=model_id, artifact_uri=uri)
print("ready", flush=True)
sys.stdin.readline()
try:
    print(ModelCache(Path(root)).fetch(identity, tracking_uri or None))
except LoadError as error:
    sys.exit(str(error))
"""


def start(identity: ModelIdentity, cache: ModelCache, tracking_uri: str = "", *, before: str = "") -> Any:
    """A process that fetches when `go` is called; `before` runs first in it."""
    command = [sys.executable, "-c", before + FETCH, identity.model_id, identity.artifact_uri, str(cache.root)]
    process = subprocess.Popen(
        [*command, tracking_uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: Any) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def test_killed_download_is_recovered(source: Path, cache: ModelCache) -> None:
    os.truncate(source / "data" / "model.onnx", 256 << 20)  # long enough to be caught half-way
    process = start(identity(source), cache)
    go(process)
    partial = cache.root / f".{folder(source)}.partial"
    deadline = time.monotonic() + 60
    while not partial.exists():
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert left_behind(cache) == [partial.name]
    # Another version's download clears it away too, and the version itself is whole at the next start.
    small = source.parent / "small"
    small.mkdir()
    (small / "MLmodel").write_text("flavors: {onnx: {}}\n")
    other = "sha256-" + "9" * 64
    cache.fetch(identity(small, model_id=other), None)
    assert left_behind(cache) == [folder(small, other)]
    assert tree_digest(cache.fetch(identity(source), None)) == tree_digest(source)


def test_disk_too_small_is_known_beforehand(source: Path, cache: ModelCache) -> None:
    hole = shutil.disk_usage(source).free + (1 << 40)  # in a file that stores nothing
    os.truncate(source / "data" / "model.onnx", hole)
    needed = hole + (source / "MLmodel").stat().st_size
    with pytest.raises(LoadError, match=f"no room in the model cache at {cache.root}: the model needs {needed} bytes"):
        cache.fetch(identity(source), None)
    assert left_behind(cache) == []


def test_disk_full_half_way_leaves_nothing(source: Path, cache: ModelCache) -> None:
    """A limit on file size stands for the disk: the kernel refuses the write either way."""
    os.truncate(source / "data" / "model.onnx", 8 << 20)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
    process = start(identity(source), cache, before=limit)
    _, errors = process.communicate("\n")
    assert process.returncode == 1
    assert f"DiskFull: no room in the model cache at {cache.root}" in errors
    assert left_behind(cache) == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory) as server:
        yield server


@pytest.fixture(scope="module")
def logged(server: MlflowServer) -> list[ModelIdentity]:
    """Two models in the server's artifact store."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(server.uri)
    try:
        model = LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
        infos = [mlflow.sklearn.log_model(model, name=name, pip_requirements=[]) for name in ("first", "second")]
    finally:
        mlflow.set_tracking_uri(before)
    return [identity(info.artifact_path, model_id=info.model_id) for info in infos]


def test_four_processes_download_once(server: MlflowServer, logged: list[ModelIdentity], cache: ModelCache) -> None:
    first = logged[0]
    assert first.artifact_uri.startswith("mlflow-artifacts:/")
    processes = [start(first, cache, server.uri) for _ in range(4)]
    for process in processes:
        go(process)
    answers = [process.communicate() for process in processes]
    assert {answer for answer, _ in answers} == {f"{cache.root / cache_key(first, server.uri) / 'model'}\n"}, answers
    lines = (server.folder / "server.log").read_text().splitlines()
    fetched = [line for line in lines if "GET" in line and f"{first.model_id}/artifacts/MLmodel" in line]
    assert len(fetched) == 1


@pytest.mark.timeout(240)  # MLflow's own defaults take longer to give up
def test_registry_down(server: MlflowServer, logged: list[ModelIdentity], cache: ModelCache) -> None:
    """What is cached is used; what is not is refused in seconds."""
    first, second = logged
    with Relay(server.port) as relay:
        path = cache.fetch(first, relay.uri)
        relay.shut()
        assert cache.fetch(first, relay.uri) == path
        with pytest.raises(LoadError, match=relay.uri) as refused:
            cache.fetch(second, relay.uri)
        assert refused.value.reason == "DownloadFailed"
        assert left_behind(cache) == [cache_key(first, relay.uri)]
        relay.open()
        assert cache.fetch(second, relay.uri).is_dir()


def test_object_store(source: Path, cache: ModelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    moto.start()
    try:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
        s3.create_bucket(Bucket="models")
        for file in source.rglob("*"):
            if file.is_file():
                s3.upload_file(str(file), "models", f"net/3/{file.relative_to(source)}")
        s3.put_object(Bucket="models", Key="net/30/MLmodel", Body=b"another version, whose name begins the same")
        for folder in ("net/3/", "net/3/data/"):
            s3.put_object(Bucket="models", Key=folder, Body=b"")  # as a console makes them
        path = cache.fetch(identity("s3://models/net/3"), None)
        assert tree_digest(path) == tree_digest(source)
        with pytest.raises(LoadError, match="nothing under s3://models/net/4"):
            cache.fetch(identity("s3://models/net/4", model_id="sha256-" + "4" * 64), None)
    finally:
        moto.stop()


@pytest.mark.timeout(90)
def test_object_store_down(cache: ModelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(LoadError) as refused:
        cache.fetch(identity("s3://models/net/3"), None)
    assert refused.value.reason == "DownloadFailed"
    assert left_behind(cache) == []
