"""Models in object stores (s3://, gs://, az://, abfs://), named by the digest of their listing.

The digest covers every object's path, size and entity tag. It changes when an object is written again with other
content, and costs one listing instead of a download. It is not the digest of the tree's content, so the identity has
no `digest` to verify a download with.

Credentials, endpoints and regions come from the environment, under the stores' usual names: AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME and so on.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

from rayfleet_operator.registry.errors import (
    ArtifactNotFound,
    ArtifactRefused,
    ClientMissing,
    NotAllowed,
    RegistryError,
    RegistryUnreachable,
)
from rayfleet_operator.registry.server import Bounds
from rayfleet_operator.registry.uri import ObjectUri
from rayfleet_serving.config import ModelIdentity

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

MAX_OBJECTS = 10_000
_ENDPOINTS = {"s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), "az": ("AZURE_STORAGE_ENDPOINT",)}
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z]{1,64})</Code>")


async def resolve(uri: ObjectUri, environ: Mapping[str, str], bounds: Bounds) -> ModelIdentity:
    """The model below `uri`; `version` is the first 12 hex digits of its key.

    Raises:
        ArtifactNotFound: no such bucket, or no MLmodel object directly below the URI.
        ArtifactRefused: more than `MAX_OBJECTS` objects.
        NotAllowed: credentials are missing, wrong, or not enough.
        RegistryUnreachable: the store gave no answer within `bounds.total_s`.
        ClientMissing: obstore is not installed.
    """
    try:
        from obstore.exceptions import BaseError
    except ImportError:
        raise ClientMissing(
            f"{uri.url} needs the package obstore. Install it with: pip install 'rayfleet[operator]' for the operator, "
            f"or 'rayfleet[serving]' for a machine that serves."
        ) from None
    try:
        async with asyncio.timeout(bounds.total_s):
            objects = await _list(_store(uri, environ, bounds), uri)
    except TimeoutError:
        raise RegistryUnreachable(
            f"The object store of {uri.url} gave no full answer within {bounds.total_s:g} s."
        ) from None
    except (BaseError, ValueError) as error:
        raise _explain(uri, str(error)) from None

    if not any(entry["path"] == "MLmodel" for entry in objects):
        raise ArtifactNotFound(
            f"{uri.url} has no MLmodel object directly below it"
            f"{', nor any other' if not objects else f' among {len(objects)} objects'}. "
            f"Name the folder that mlflow's save_model wrote."
        )
    lines = sorted(f"{entry['path']}\0{entry['size']}\0{entry['e_tag'] or entry['last_modified']}" for entry in objects)
    value = hashlib.sha256("\n".join([uri.url, *lines]).encode()).hexdigest()
    return ModelIdentity(version=value[:12], model_id=f"sha256-{value}", artifact_uri=uri.url)


def _store(uri: ObjectUri, environ: Mapping[str, str], bounds: Bounds) -> ObjectStore:
    from obstore.store import from_url

    scheme = uri.url.partition(":")[0].replace("abfss", "az").replace("abfs", "az")
    endpoint = next((environ[name] for name in _ENDPOINTS.get(scheme, ()) if environ.get(name)), "")
    return from_url(
        uri.url,
        client_options={
            "connect_timeout": timedelta(seconds=bounds.connect_s),
            "timeout": timedelta(seconds=bounds.total_s),
            # An endpoint that says http:// means it.
            "allow_http": endpoint.startswith("http://"),
        },
        retry_config={"max_retries": 1, "retry_timeout": timedelta(seconds=bounds.total_s)},
    )


async def _list(store: ObjectStore, uri: ObjectUri) -> list[ObjectMeta]:
    import obstore

    objects: list[ObjectMeta] = []
    async for page in obstore.list(store):
        objects += page
        if len(objects) > MAX_OBJECTS:
            raise ArtifactRefused(f"{uri.url} has more than {MAX_OBJECTS} objects. Name the model's own folder.")
    return objects


def _explain(uri: ObjectUri, text: str) -> RegistryError:
    """What the store's error means. Its own text is not repeated: it can hold a signed URL."""
    status, code = _STATUS.search(text), _CODE.search(text)
    answer = f"{status[1]}{f' {code[1]}' if code else ''}" if status else ""
    if status and status[1] == "404":
        return ArtifactNotFound(f"There is no bucket or container of this name for {uri.url} (answer {answer}).")
    if status and status[1] in ("400", "401", "403"):
        return NotAllowed(
            f"The object store refuses to list {uri.url} (answer {answer}). Check the credentials in the environment, "
            f"and that they permit listing the folder and reading its objects."
        )
    if status:
        return RegistryUnreachable(f"The object store answered {answer} for {uri.url}.")
    if "Missing" in text or "must be specified" in text or "not specified" in text:
        return NotAllowed(
            f"The environment holds no complete credentials for {uri.url}. Set AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, or AZURE_STORAGE_ACCOUNT_NAME and its key; "
            f"for a public bucket AWS_SKIP_SIGNATURE, GOOGLE_SKIP_SIGNATURE or AZURE_SKIP_SIGNATURE=true."
        )
    return RegistryUnreachable(f"The object store of {uri.url} cannot be reached. Check the endpoint and the region.")
