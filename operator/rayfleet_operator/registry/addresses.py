"""Which tracking URIs can be asked."""

from __future__ import annotations

import ipaddress
import re
import socket
from urllib.parse import urlsplit

import httpx

from rayfleet_operator.registry.errors import InvalidUri


def usable(tracking_uri: str, named: str) -> str:
    """The tracking URI itself, if it is one that can be asked over HTTP. `named` says where it stands.

    Raises:
        InvalidUri: see there.
    """
    try:
        parts = urlsplit(tracking_uri)
        fit = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        fit = False
    if not fit:
        raise InvalidUri(
            f"{named} is {_shown(tracking_uri)!r}, which is no address of an MLflow server: http://host:port or "
            f"https://host. A database or a folder becomes one with: mlflow server --backend-store-uri sqlite:///….db"
        )
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise InvalidUri(
            f"{named} {_shown(tracking_uri)!r} holds credentials, a query or a fragment, and it would be shown in "
            f"statuses and logs. Put credentials in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            f"MLFLOW_TRACKING_TOKEN."
        )
    if _link_local(tracking_uri):
        raise InvalidUri(
            f"{named} {_shown(tracking_uri)!r} is a link-local address (169.254.0.0/16, fe80::/10). There a cloud's "
            f"metadata service answers, which gives out credentials and must not be asked. Name the MLflow server by "
            f"its host name or another of its addresses."
        )
    return tracking_uri


def _link_local(uri: str) -> bool:
    """Whether the URI's host is such an address, in any of the forms that are taken for one. What a name stands for is
    not looked at: some clouds have ordinary services at link-local addresses, and give them names."""
    try:
        host = httpx.URL(uri).raw_host.decode()  # as it is asked for: other alphabets have dots, too
    except httpx.InvalidURL:
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.inet_aton(host))  # as 0xa9fea9fe and 169.254.43518
        except OSError:
            return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_link_local


def _shown(uri: str) -> str:
    """The URI without user, password, query and fragment: databases' URIs hold passwords as well."""
    return re.sub(r"//[^/]*@", "//", re.split(r"[?#]", uri)[0])
