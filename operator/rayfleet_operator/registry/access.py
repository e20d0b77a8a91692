"""What one model shows its own MLflow server: from the Secret and the ConfigMap that it names.

Objects are taken as the API server gives them. `access` is the operator's part, `pod_files` the pods': the files in
which replicas find what they download the model with.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.registry.credentials import Credentials, Tls
from rayfleet_operator.registry.errors import CredentialsMissing
from rayfleet_serving.config import CA_FILE, CREDENTIAL, credential_file

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Access:
    """Nothing of its own: what the environment says holds."""

    credentials: Credentials | None = None
    tls: Tls | None = None
    """With its own, the model is asked for without the environment's credentials."""


def needs_access(model: ModelDeployment) -> bool:
    """Whether the model names a Secret or a ConfigMap."""
    registry = model.spec.model.registry
    return registry.secret_name is not None or registry.ca_config_map_name is not None


def access(model: ModelDeployment, secret: Object | None, config_map: Object | None) -> Access | CredentialsMissing:
    """How the model's server is asked; or what is missing, where `secret` or `config_map` is named and None, or holds
    nothing that can be used.

    A Secret that holds credentials of an artifact store only leaves the environment's for MLflow in force, where the
    model brings no `tls`.
    """
    registry = model.spec.model.registry
    namespace = model.metadata.namespace
    values: dict[str, str] = {}
    pem: str | None = None
    if registry.secret_name is not None:
        named = f"The Secret {registry.secret_name!r} that spec.model.registry.secretName names"
        if secret is None:
            return CredentialsMissing(f"{named} is not in the namespace {namespace!r}. Create it, or leave it out.")
        values = {name: value.decode(errors="replace").strip("\r\n") for name, value in _credentials(secret).items()}
        if not values:
            has = ", ".join(sorted(map(str, secret.get("data") or {}))[:5])
            return CredentialsMissing(
                f"{named} has no key that is a variable of MLflow's or of an artifact store's, as "
                f"MLFLOW_TRACKING_TOKEN or AWS_ACCESS_KEY_ID. {f'It has {has}.' if has else 'It is empty.'}"
            )
    if registry.ca_config_map_name is not None:
        named = f"The ConfigMap {registry.ca_config_map_name!r} that spec.model.registry.caConfigMapName names"
        if config_map is None:
            return CredentialsMissing(f"{named} is not in the namespace {namespace!r}. Create it, or leave it out.")
        pem = _certificates(config_map)
        if pem is None:
            return CredentialsMissing(f"{named} has no key {CA_FILE!r}, which holds the certificates as PEM.")
    shown = Credentials.from_environment(values, origin=f"the Secret {registry.secret_name!r}")
    brought = any(value is not None for value in (shown.username, shown.password, shown.token))
    tls = Tls(insecure=Tls.from_environment(values).insecure and pem is None, server_cert_pem=pem)
    return Access(
        # Half of them count as well: what is missing must not be made up from the environment.
        credentials=shown if brought else None,
        tls=tls if tls != Tls() else None,
    )


def pod_files(model: ModelDeployment, secret: Object | None, config_map: Object | None) -> dict[str, bytes]:
    """The model's share of the Secret that its fleet's pods mount, by file name."""
    registry = model.spec.model.registry
    found = _credentials(secret) if secret is not None and registry.secret_name is not None else {}
    if config_map is not None and registry.ca_config_map_name is not None:
        pem = _certificates(config_map)
        if pem is not None:
            found[CA_FILE] = pem.encode()
    return {credential_file(model.metadata.name, key): value for key, value in sorted(found.items())}


def _credentials(secret: Object) -> dict[str, bytes]:
    values: dict[str, bytes] = {}
    for name, value in (secret.get("data") or {}).items():
        if CREDENTIAL.fullmatch(name):
            try:
                values[name] = base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):  # the API server takes no such Secret
                continue
    return values


def _certificates(config_map: Object) -> str | None:
    text = (config_map.get("data") or {}).get(CA_FILE)
    if text is not None:
        return str(text)
    binary = (config_map.get("binaryData") or {}).get(CA_FILE)
    return base64.b64decode(binary).decode(errors="replace") if binary is not None else None
