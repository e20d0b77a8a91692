"""Where a model comes from when its URI is one of a registry, and what is written back there."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from rayfleet_operator.api import forms, quantity
from rayfleet_operator.api.base import ApiModel, Rule
from rayfleet_operator.api.patterns import ADDRESS


class WriteBack(ApiModel):
    """What MLflow is to say of the version that has every request."""

    rules: ClassVar = (
        Rule(
            cel="has(self.alias) || has(self.tag)",
            check=lambda written: written.alias is not None or written.tag is not None,
            message="writeBack says nothing to write",
            right="give alias, tag, or both",
            field="alias",
        ),
        Rule(
            cel="!has(self.alias) || !self.alias.matches('^([Ll][Aa][Tt][Ee][Ss][Tt]|[Vv][0-9]+)$')",
            check=lambda written: (
                written.alias is None or not re.fullmatch(r"latest|v[0-9]+", written.alias, re.ASCII | re.IGNORECASE)
            ),
            message="MLflow keeps the aliases latest, v1, v2 and so on for itself",
            right="choose another one",
            field="alias",
        ),
    )

    alias: Annotated[
        str | None,
        forms.text(r"[A-Za-z0-9_-]+", what="an alias of letters, digits, '_' and '-'", example="live", max_length=255),
    ] = None
    """An alias that is set on it, and so is taken from the version before. Nobody else should set it."""
    tag: Annotated[
        str | None,
        forms.text(
            r"[A-Za-z0-9_][A-Za-z0-9_.-]*",
            what="a tag of letters, digits, '_', '.' and '-'",
            example="rayfleet.live",
            max_length=250,
        ),
    ] = None
    """A tag that is set on it, with this object's namespace and name as its value, and taken off the version before."""


class Registry(ApiModel):
    """Where and how often a registry URI is looked up."""

    rules: ClassVar = (
        Rule(
            cel="!has(self.caConfigMapName) || !has(self.trackingUri) || self.trackingUri.startsWith('https:')",
            check=lambda registry: (
                registry.ca_config_map_name is None
                or registry.tracking_uri is None
                or registry.tracking_uri.startswith("https:")
            ),
            message="caConfigMapName has no effect on a trackingUri without TLS",
            right="leave caConfigMapName out, or use an https:// trackingUri",
            field="caConfigMapName",
        ),
    )

    tracking_uri: Annotated[
        str | None,
        forms.text(
            ADDRESS,
            what="an http:// or https:// address without user, password or query",
            example="http://mlflow.ml:5000",
            max_length=1024,
        ),
    ] = None
    """Address of the MLflow server. Left out: the server named by MLFLOW_TRACKING_URI. Credentials never stand here:
    with `rayfleet up` they come from the environment."""
    poll_interval: Annotated[str, forms.duration("1s", "24h", example="30s")] = "30s"
    """How often the registry is asked what the URI points at now."""
    secret_name: Annotated[str | None, forms.object_name("mlflow-token")] = None
    """On Kubernetes: a Secret in the same namespace with credentials under the names of MLflow's variables
    (MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD) and of the artifact store's
    (AWS_*, AZURE_*, GOOGLE_*). The operator shows them to this server only; all of the fleet's pods can read them."""
    ca_config_map_name: Annotated[str | None, forms.object_name("mlflow-ca")] = None
    """On Kubernetes: a ConfigMap in the same namespace whose `ca.crt` holds the certificates, as PEM, by which the
    server is trusted. Left out: the public authorities."""
    write_back: WriteBack | None = None
    """What is written into the registry once a version has every request; only with a `models:/NAME…` URI. Left out:
    nothing."""

    @property
    def poll_interval_seconds(self) -> float:
        return quantity.parse_duration(self.poll_interval)
