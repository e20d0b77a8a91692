"""How one operator process runs, read from RAYFLEET_* environment variables."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx
import yaml
from pydantic import ValidationError

from rayfleet_operator.api import quantity
from rayfleet_operator.api.fleet import of_several
from rayfleet_operator.api.forms import CREDENTIALS
from rayfleet_operator.api.patterns import ADDRESS
from rayfleet_operator.api.problems import described

LogFormat = Literal["json", "text"]
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LIKE = "http://prometheus.monitoring:9090"
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

Value = TypeVar("Value")


class SettingsError(ValueError):
    """A variable has a value that cannot be meant; the message names it and says what would be right."""


@dataclass(frozen=True, kw_only=True)
class PrometheusSettings:
    """Where the queries of rollouts are asked. `rayfleet up` reads the same variables."""

    url: str | None = None
    """RAYFLEET_PROMETHEUS_URL. Prometheus, or what speaks its API; with what comes before `/api/v1`, if anything does.
    Left out: nothing can be concluded where a rollout has a query."""
    token_file: Path | None = None
    """RAYFLEET_PROMETHEUS_TOKEN_FILE, the path of a file with a bearer token. Left out: none is shown. The file may
    change."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> PrometheusSettings:
        """Raises SettingsError as `Settings.from_environment` does."""
        read = _Reader(environ)
        return cls(
            url=read("RAYFLEET_PROMETHEUS_URL", _address, None),
            token_file=read("RAYFLEET_PROMETHEUS_TOKEN_FILE", _path, None),
        )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Each field is one variable, named in its docstring."""

    namespaces: tuple[str, ...] = ()
    """RAYFLEET_NAMESPACES, comma separated. Where fleets are looked after; empty: in every namespace."""
    operator_namespace: str = "rayfleet"
    """RAYFLEET_OPERATOR_NAMESPACE. Holds the Lease and the operator's key Secret. Left out: the pod's own."""
    identity: str = field(default_factory=lambda: f"{socket.gethostname()}_{os.urandom(4).hex()}")
    """RAYFLEET_IDENTITY. Who holds the Lease. The random part tells a restarted container from the one before it."""
    leader_election: bool = True
    """RAYFLEET_LEADER_ELECTION. Without it, make sure that there is never a second operator."""
    lease_name: str = "rayfleet-operator"
    """RAYFLEET_LEASE_NAME. Operators with the same Lease take turns; give another to one that has other namespaces."""
    fleet_defaults: Mapping[str, Any] = field(default_factory=dict)
    """RAYFLEET_FLEET_DEFAULTS, the path of a YAML file: fields of a ModelFleet's spec for fleets that leave them out.
    The file names `image` and `rayVersion` at least: a model without a ModelFleet has nowhere else to say it."""
    metrics_port: int = 8080
    """RAYFLEET_METRICS_PORT. GET /metrics; 0: any free port."""
    health_port: int = 8081
    """RAYFLEET_HEALTH_PORT. GET /healthz and /readyz; 0: any free port."""
    registry_webhook: Path | None = None
    """RAYFLEET_REGISTRY_WEBHOOK, the path of a file with the key that MLflow signs its webhooks with, or with several,
    one a line. Left out: nothing listens for webhooks. The file need not be there yet, and may change."""
    registry_webhook_port: int = 8083
    """RAYFLEET_REGISTRY_WEBHOOK_PORT. POST /mlflow; 0: any free port."""
    prometheus: PrometheusSettings = PrometheusSettings()
    """Two variables, named there."""
    concurrency: int = 8
    """RAYFLEET_CONCURRENCY. Fleets reconciled at a time. They mostly wait for the network, so it is not about CPUs."""
    resync_s: float = 60.0
    """RAYFLEET_RESYNC, a duration. Every fleet is looked at this often even when nothing was heard of it: whatever
    was missed is healed by then."""
    reconcile_deadline_s: float = 60.0
    """Longest reconcile of one fleet; then it counts as failed. Not a variable: it belongs to the code."""
    kube_qps: float = 50.0
    """RAYFLEET_KUBE_QPS. Requests a second to the API server, over time. Watches and the Lease do not count."""
    kube_burst: int = 100
    """RAYFLEET_KUBE_BURST. Requests that may go out at once after a quiet time."""
    kubeconfig: str | None = None
    """KUBECONFIG. Left out: the pod's service account, else ~/.kube/config."""
    log_level: str = "INFO"
    """RAYFLEET_LOG_LEVEL. DEBUG, INFO, WARNING or ERROR."""
    log_format: LogFormat = "json"
    """RAYFLEET_LOG_FORMAT. json for machines, text for people."""
    network_policy: bool = True
    """RAYFLEET_NETWORK_POLICY. Whether each fleet gets a NetworkPolicy."""
    dashboard_clients: tuple[str, ...] = ("rayfleet", "kuberay-operator", "kuberay")
    """RAYFLEET_DASHBOARD_CLIENTS, comma separated. Values of the label app.kubernetes.io/name of the pods, in any
    namespace, that a fleet's NetworkPolicy lets reach its dashboard: this operator's own, and KubeRay's."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Settings:
        """Read the variables and the file of fleet defaults; an empty variable counts as left out.

        Raises:
            SettingsError: a variable's value makes no sense.
        """
        read = _Reader(environ)
        qps = read("RAYFLEET_KUBE_QPS", _number(0.1, 10_000), cls.kube_qps)
        return cls(
            namespaces=read("RAYFLEET_NAMESPACES", _names, ()),
            operator_namespace=read("RAYFLEET_OPERATOR_NAMESPACE", _name, _own_namespace()),
            **read.optional("identity", "RAYFLEET_IDENTITY", _text),
            leader_election=read("RAYFLEET_LEADER_ELECTION", _boolean, cls.leader_election),
            lease_name=read("RAYFLEET_LEASE_NAME", _name, cls.lease_name),
            fleet_defaults=read("RAYFLEET_FLEET_DEFAULTS", _fleet_defaults, {}),
            metrics_port=read("RAYFLEET_METRICS_PORT", _whole(0, 65535), cls.metrics_port),
            health_port=read("RAYFLEET_HEALTH_PORT", _whole(0, 65535), cls.health_port),
            registry_webhook=read("RAYFLEET_REGISTRY_WEBHOOK", _path, None),
            registry_webhook_port=read("RAYFLEET_REGISTRY_WEBHOOK_PORT", _whole(0, 65535), cls.registry_webhook_port),
            prometheus=PrometheusSettings.from_environment(environ),
            concurrency=read("RAYFLEET_CONCURRENCY", _whole(1, 1000), cls.concurrency),
            resync_s=read("RAYFLEET_RESYNC", _duration(1, 86400), cls.resync_s),
            kube_qps=qps,
            kube_burst=read("RAYFLEET_KUBE_BURST", _whole(1, 100_000), cls.kube_burst),
            kubeconfig=read("KUBECONFIG", _one_file, None),
            log_level=read("RAYFLEET_LOG_LEVEL", _level, cls.log_level),
            log_format=read("RAYFLEET_LOG_FORMAT", _log_format, cls.log_format),
            network_policy=read("RAYFLEET_NETWORK_POLICY", _boolean, cls.network_policy),
            dashboard_clients=read("RAYFLEET_DASHBOARD_CLIENTS", _label_values, cls.dashboard_clients),
        )


class _Reader:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def __call__(self, variable: str, parse: Callable[[str], Value], default: Value) -> Value:
        text = self._environ.get(variable, "").strip()
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as error:
            shown = CREDENTIALS.sub("***@", text)
            shown = shown if len(shown) <= 80 else f"{shown[:80]}…"
            raise SettingsError(f"{variable}={shown!r}: {error}") from error

    def optional(self, name: str, variable: str, parse: Callable[[str], Any]) -> dict[str, Any]:
        """For a field whose default is made anew each time."""
        value = self(variable, parse, None)
        return {} if value is None else {name: value}


def _own_namespace() -> str:
    try:
        return _NAMESPACE_FILE.read_text().strip()
    except OSError:
        return Settings.operator_namespace


def _text(text: str) -> str:
    return text


def _name(text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise ValueError("write a name of lower-case letters, digits and inner hyphens, at most 63")
    return text


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_name(part.strip()) for part in text.split(",") if part.strip()))


def _label_values(text: str) -> tuple[str, ...]:
    values = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not values or not all(_LABEL_VALUE.fullmatch(value) for value in values):
        raise ValueError("write values of a label with commas between them, like rayfleet,kuberay-operator")
    return values


def _boolean(text: str) -> bool:
    try:
        return {"true": True, "false": False}[text.lower()]
    except KeyError:
        raise ValueError("write true or false") from None


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"write a whole number from {low} to {high}")
        return int(text)

    return parse


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) or not low <= float(text) <= high:
            raise ValueError(f"write a number from {low:g} to {high:g}")
        return float(text)

    return parse


def _duration(low_s: float, high_s: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        wrong = f"write a duration from {low_s:g}s to {high_s:g}s, like 90s or 5m"
        try:
            seconds = quantity.parse_duration(text)
        except ValueError:
            raise ValueError(wrong) from None
        if not low_s <= seconds <= high_s:
            raise ValueError(wrong)
        return seconds

    return parse


def _level(text: str) -> str:
    if text.upper() not in LEVELS:
        raise ValueError(f"write one of {', '.join(LEVELS)}")
    return text.upper()


def _log_format(text: str) -> LogFormat:
    match text.lower():
        case "json":
            return "json"
        case "text":
            return "text"
        case _:
            raise ValueError("write json or text")


def _one_file(text: str) -> str:
    if os.pathsep in text:
        raise ValueError("name one file; lists of files are not merged")
    return text


def _address(text: str) -> str:
    if not re.fullmatch(ADDRESS, text):
        raise ValueError("write an http:// or https:// address without user, password or query")
    try:
        # What is only found out when a client is made would end every operator that has come to lead.
        url = httpx.URL(text)
        host, port = url.host, url.port
    except (httpx.InvalidURL, ValueError) as error:
        raise ValueError(f"write an address with a host name or an IP address, like {_LIKE}: {error}") from None
    if not host:
        raise ValueError(f"write an address with a host, like {_LIKE}")
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"write a port from 1 to 65535, like {_LIKE}")
    return text.rstrip("/")


def _path(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise ValueError("write the whole path of a file, which begins with /")
    return path


def _fleet_defaults(text: str) -> Mapping[str, Any]:
    try:
        defaults = yaml.safe_load(Path(text).read_text())
    except OSError as error:
        raise ValueError(f"the file cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"the file is not YAML: {error}") from error
    if not isinstance(defaults, dict):
        raise ValueError("the file must hold fields of a ModelFleet's spec, like `image: …`")
    missing = [name for name in ("image", "rayVersion") if not defaults.get(name)]
    if missing:
        raise ValueError(f"the file must also name {' and '.join(missing)}")
    try:
        of_several(defaults)
    except ValidationError as error:
        raise ValueError(f"the file holds what no ModelFleet may:\n{described(error)}") from error
    return defaults
