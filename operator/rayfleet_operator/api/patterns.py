"""Regular expressions that several types share, in the syntax that Go and Python have in common."""

from __future__ import annotations

LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
"""RFC 1123 label."""
LABEL_VALUE = r"([A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?)?"
"""The value of a label, which may be empty."""
LABEL_KEY = rf"({LABEL}(\.{LABEL})*/)?[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?"
"""The name of a label or a taint: with a domain or without."""
KUBERNETES_RESOURCE = rf"{LABEL}(\.{LABEL})*/[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?"
"""An extended resource, which always has a domain."""
KIND = r"[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?"
"""A kind of GPU, like A100-80GB."""
NAME = r"[a-z]([-a-z0-9]*[a-z0-9])?"
"""RFC 1035 label: what Services and RayServices may be called, and a fleet gives both its name."""
NAME_LENGTH = 40
"""Serve application, RayService and pod names are made of a name and a suffix, and must fit Kubernetes' 63."""

KUBERAYS = ("-head-svc", "-serve-svc")
"""Ends of the names that KubeRay gives to Services of its own, beside a fleet's and named like it."""

CONTROL = r"\x00-\x1f\x7f-\x9f"
"""Python and Go disagree on which of them \\s means, so no field takes any."""

ADDRESS = rf"https?://[^ {CONTROL}@/?#]+(/[^ {CONTROL}@?#]*)?"
"""Of a server, with a path; without user, password or query."""

PORT = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"


def path(excluded: str = "") -> str:
    """A relative path in which no part is empty, ".", "..", or begins or ends with a blank."""
    never = rf"/{CONTROL}{excluded}"
    part = rf"\.{{0,2}}[^. {never}]([^{never}]*[^ {never}])?"
    return rf"{part}(/{part})*"


MODEL_URI = "|".join(
    (
        r"models:/m-[0-9a-f]{32}",
        rf"models:/[^/: {CONTROL}]([^/:{CONTROL}]*[^/: {CONTROL}])?"
        r"(/([0-9]{1,10}|Production|Staging|Archived|latest)|@[\w-]{1,255})",
        rf"runs:/[0-9a-f]{{32}}/{path()}/?",
        rf"(s3|gs|az|abfss?)://[\w.$@-]+/{path('?#')}/?",
        rf"file:///{path('?#')}/?",
        rf"/{path()}/?",
    )
)
"""Every form that the registry clients can read; whether the model is there is told when the URI is resolved."""
