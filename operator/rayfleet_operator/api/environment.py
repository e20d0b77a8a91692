"""Variables of a fleet's pods."""

from __future__ import annotations

from typing import Annotated, ClassVar

from rayfleet_operator.api import forms
from rayfleet_operator.api.base import ApiModel, Rule
from rayfleet_operator.api.patterns import CONTROL

TAKEN = (
    # The operator mounts something there.
    "RAYFLEET_CACHE_DIR",
    "RAYFLEET_CREDENTIALS_DIR",
    # Which cluster a pod belongs to, and the token of its Ray.
    "RAY_ADDRESS",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "RAY_AUTH_TOKEN_PATH",
    "RAY_CLUSTER_NAME",
    "RAY_CLUSTER_NAMESPACE",
    # KubeRay takes no cluster in which they are not said in its own way.
    "RAY_REDIS_ADDRESS",
    "RAY_enable_autoscaler_v2",
    "REDIS_PASSWORD",
    "REDIS_USERNAME",
)
"""Variables with a meaning of their own in a fleet's pods."""


class Variable(ApiModel):
    """One variable of the environment."""

    rules: ClassVar = (
        Rule(
            cel=f"!(self.name in {list(TAKEN)})",
            check=lambda variable: variable.name not in TAKEN,
            message="the operator or KubeRay sets this variable",
            right="leave it out; where Redis answers stands in head.gcsFaultTolerance",
            field="name",
        ),
    )

    name: Annotated[
        str,
        forms.text(r"[A-Za-z_][A-Za-z0-9_]*", what="a variable's name", example="HTTPS_PROXY", max_length=253),
    ]
    """Its name."""
    value: Annotated[
        str,
        forms.text(rf"[^{CONTROL}]*", what="text on one line", example="http://proxy:3128", max_length=4096),
    ] = ""
    """Its value; secrets belong into `envFrom`."""


class SecretOrConfigMap(ApiModel):
    """A Secret or a ConfigMap, each key of which becomes a variable."""

    rules: ClassVar = (
        Rule(
            cel="has(self.secretName) != has(self.configMapName)",
            check=lambda source: (source.secret_name is None) != (source.config_map_name is None),
            message="one of secretName and configMapName must be there",
            right="give exactly one of them",
            field="secretName",
        ),
    )

    secret_name: Annotated[str | None, forms.object_name("feature-store")] = None
    """Secret in the same namespace."""
    config_map_name: Annotated[str | None, forms.object_name("proxies")] = None
    """ConfigMap in the same namespace."""
