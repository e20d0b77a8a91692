"""Copying a model's artifacts to a local folder, by the scheme of its URI.

- a path or file: — copied;
- s3:, gs:, az: and their like — read from the object store itself, with the credentials of the environment;
- mlflow-artifacts: — through MLflow's client, from the tracking server.

Any other scheme is refused: the URI is what a registry answered, and MLflow's client would go wherever it points.

`stored_bytes` tells beforehand how much will come, so that a disk too small is known before it is full.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from rayfleet_serving.digest import TreeError, tree_files
from rayfleet_serving.model.environment import environment
from rayfleet_serving.model.errors import LoadError

if TYPE_CHECKING:
    from mlflow.entities import FileInfo
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

OBJECT_STORE_SCHEMES = {"s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss"}

CREDENTIALS = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
)
"""What MLflow's client shows a server, or makes something to show of."""

MLFLOW_SETTINGS = {
    # MLflow's own defaults keep trying a server that is down for four minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    # For connecting, and for each read: a long download is not cut off while bytes arrive.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Defaults; what the environment already says wins."""

CLIENT_CONFIG: ClientConfig = {"connect_timeout": "5s", "read_timeout": "20s", "timeout": "1h"}
"""An object may take long to read, but never long to say nothing."""
RETRY_CONFIG: RetryConfig = {"max_retries": 2, "retry_timeout": timedelta(seconds=20)}

CHUNK = 8 * 1024 * 1024
"""Bytes held in memory while an object streams to disk."""


def download(artifact_uri: str, tracking_uri: str | None, target: Path) -> None:
    """Puts the artifacts under `artifact_uri` into `target`, an empty folder.

    Args:
        tracking_uri: the MLflow server of mlflow-artifacts: URIs; None for MLFLOW_TRACKING_URI.

    Raises:
        LoadError: DownloadFailed where they cannot be had, or the scheme is none of the above; nothing is retried for
            longer than seconds.
        OSError: `target` cannot be written.
    """
    scheme = _scheme(artifact_uri)
    if scheme in ("", "file"):
        _copy(local_path(artifact_uri), target)
    elif scheme in OBJECT_STORE_SCHEMES:
        _from_object_store(artifact_uri, target)
    else:
        with _mlflow_repository(artifact_uri, tracking_uri) as repository:
            repository.download_artifacts("", str(target))  # type: ignore[no-untyped-call]


def stored_bytes(artifact_uri: str, tracking_uri: str | None) -> int:
    """Bytes under `artifact_uri`, as the store says.

    Raises:
        LoadError: DownloadFailed where the store does not answer, or the scheme is none of the above.
    """
    scheme = _scheme(artifact_uri)
    if scheme in ("", "file"):
        return sum(file.stat().st_size for file in local_path(artifact_uri).rglob("*") if file.is_file())
    if scheme in OBJECT_STORE_SCHEMES:
        return sum(meta["size"] for meta in _objects(_store(artifact_uri), artifact_uri))
    with _mlflow_repository(artifact_uri, tracking_uri) as repository:
        return sum(info.file_size or 0 for info in _mlflow_files(repository))


def _scheme(artifact_uri: str) -> str:
    scheme = urlsplit(artifact_uri).scheme
    if scheme not in ("", "file", "mlflow-artifacts", *OBJECT_STORE_SCHEMES):
        raise LoadError(
            "DownloadFailed",
            f"artifacts are not read from {scheme}: URIs such as {artifact_uri}; log the model to a store with "
            "mlflow-artifacts:, s3:, gs:, az: or abfss: URIs, or to a path",
        )
    return scheme


def local_path(artifact_uri: str) -> Path:
    """The path of a path or file: URI."""
    return Path(unquote(urlsplit(artifact_uri).path)) if artifact_uri.startswith("file:") else Path(artifact_uri)


def _copy(source: Path, target: Path) -> None:
    """Links within the folder are followed: the copy holds files of its own."""
    if not source.is_dir():
        raise LoadError("DownloadFailed", f"{source} is not a folder on this machine")
    try:
        for name, path in tree_files(source):
            file = target / os.fsdecode(name)
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, file)
    except TreeError as e:
        raise LoadError("DownloadFailed", str(e)) from None


def _from_object_store(artifact_uri: str, target: Path) -> None:
    from obstore.exceptions import BaseError

    store = _store(artifact_uri)
    objects = _objects(store, artifact_uri)
    if not objects:
        raise LoadError("DownloadFailed", f"there is nothing under {artifact_uri}")
    for meta in objects:
        file = (target / meta["path"]).resolve()
        if not file.is_relative_to(target.resolve()):
            raise LoadError("DownloadFailed", f"{artifact_uri} holds an object named {meta['path']!r}")
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as out:
            try:
                for chunk in store.get(meta["path"]).stream(min_chunk_size=CHUNK):
                    out.write(chunk)
            except BaseError as e:
                raise LoadError("DownloadFailed", f"{artifact_uri}/{meta['path']}: {e}") from e


def _store(artifact_uri: str) -> ObjectStore:
    import obstore.store

    client = CLIENT_CONFIG.copy()
    # MLflow names an S3 that is not Amazon's by a variable of its own.
    endpoint = os.environ.get("MLFLOW_S3_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT_URL")
    if urlsplit(artifact_uri).scheme not in ("s3", "s3a") or not endpoint:
        return obstore.store.from_url(artifact_uri, client_options=client, retry_config=RETRY_CONFIG)
    client["allow_http"] = endpoint.startswith("http:")
    return obstore.store.from_url(
        artifact_uri, config={"endpoint": endpoint}, client_options=client, retry_config=RETRY_CONFIG
    )


def _objects(store: ObjectStore, artifact_uri: str) -> list[ObjectMeta]:
    """Everything but the empty objects that consoles make for folders: `data/`, which is listed without its slash."""
    from obstore.exceptions import BaseError

    try:
        listed = [meta for page in store.list() for meta in page]
    except BaseError as e:
        raise LoadError("DownloadFailed", f"{artifact_uri} cannot be listed: {e}") from e
    folders = {"", *(str(folder) for meta in listed for folder in PurePosixPath(meta["path"]).parents)}
    return [meta for meta in listed if meta["size"] or meta["path"] not in folders]


@contextmanager
def _mlflow_repository(artifact_uri: str, tracking_uri: str | None) -> Iterator[ArtifactRepository]:
    """MLflow's client for mlflow-artifacts: URIs. Its errors become ours for the length of the block."""
    settings: dict[str, str | None] = {name: os.environ.get(name, value) for name, value in MLFLOW_SETTINGS.items()}
    server = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not _trusted(artifact_uri, server or ""):
        settings |= dict.fromkeys(CREDENTIALS)
    with environment(settings):
        import requests
        from mlflow.exceptions import MlflowException
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        try:
            yield get_artifact_repository(artifact_uri, tracking_uri=server)
        except (MlflowException, requests.RequestException) as e:
            raise LoadError("DownloadFailed", f"{artifact_uri} from {server or 'no tracking server'}: {e}") from e


def _trusted(artifact_uri: str, server: str) -> bool:
    """Whether the server that holds the artifacts may see the credentials of the environment.

    They belong to the server of MLFLOW_TRACKING_URI; without one, to any tracking server: a tracking URI comes from
    whoever writes a ModelDeployment. The host an artifact URI may name, which MLflow's client prefers to the tracking
    server's, comes from the registry. The operator, whose credentials are nobody's of the fleet, goes by the path too.
    """
    owner = os.environ.get("MLFLOW_TRACKING_URI") or server
    host = urlsplit(artifact_uri).netloc
    asked = f"{urlsplit(server).scheme}://{host}" if host else server
    if asked == owner:
        return True
    # Of "a\\@b" one parser takes a for the host, another b.
    plain = re.fullmatch(r"[\w.:\[\]-]+", urlsplit(asked).netloc, re.ASCII)
    return plain is not None and _origin(asked) == _origin(owner)


def _origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: what credentials belong to."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _mlflow_files(repository: ArtifactRepository, folder: str | None = None) -> Iterator[FileInfo]:
    for info in repository.list_artifacts(folder):
        if info.is_dir:
            yield from _mlflow_files(repository, info.path)
        else:
            yield info
