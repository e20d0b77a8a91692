"""The command lines of etcd and of Kubernetes' own programs, the same for a bare control plane and for a node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.binaries import binary
from cluster.certificates import Authority, Pair

DOMAIN = "cluster.local"


@dataclass(frozen=True)
class Keys:
    """The certificates that a control plane consists of."""

    authority: Authority
    apiserver: Pair
    kubelet_client: Pair
    service_accounts: Pair
    admin: Pair


def issue(folder: Path, hosts: Sequence[str]) -> Keys:
    """Make the certificates of an API server that answers at `hosts`."""
    authority = Authority(folder, "rayfleet-tests")
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{DOMAIN}"]
    return Keys(
        authority=authority,
        apiserver=authority.issue("apiserver", "kube-apiserver", hosts=[*names, "localhost", "127.0.0.1", *hosts]),
        kubelet_client=authority.issue("apiserver-kubelet", "kube-apiserver-kubelet-client"),
        service_accounts=authority.signing_key("service-accounts"),
        admin=authority.issue("admin", "admin", ["system:masters"]),
    )


def etcd(data: Path, client: str, peer: str) -> list[str]:
    """A single member without fsync: what it keeps is thrown away with the cluster."""
    return [
        str(binary("etcd")),
        "--name=rayfleet-tests",
        f"--data-dir={data}",
        "--unsafe-no-fsync",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=rayfleet-tests={peer}",
        "--log-level=warn",
    ]


def apiserver(keys: Keys, etcd: str, address: str, port: int, services: str) -> list[str]:
    """`services` is the range of service addresses. Whether a node can join depends on further arguments."""
    return [
        str(binary("kube-apiserver")),
        f"--etcd-servers={etcd}",
        f"--bind-address={address}",
        f"--advertise-address={address}",
        f"--secure-port={port}",
        "--permit-address-sharing=true",  # one that was killed leaves connections behind
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--client-ca-file={keys.authority.pair.certificate}",
        f"--tls-cert-file={keys.apiserver.certificate}",
        f"--tls-private-key-file={keys.apiserver.key}",
        f"--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}",
        f"--service-account-key-file={keys.service_accounts.certificate}",
        f"--service-account-signing-key-file={keys.service_accounts.key}",
        f"--service-cluster-ip-range={services}",
        "--allow-privileged=true",
        # Otherwise open watches hold up its end for a minute.
        "--shutdown-watch-termination-grace-period=1s",
        "--profiling=false",
    ]


def controller_manager(keys: Keys, kubeconfig: Path, port: int) -> list[str]:
    """Everything it does, garbage collection and service accounts among it."""
    return [
        str(binary("kube-controller-manager")),
        f"--kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--service-account-private-key-file={keys.service_accounts.key}",
        f"--root-ca-file={keys.authority.pair.certificate}",
        f"--cluster-signing-cert-file={keys.authority.pair.certificate}",
        f"--cluster-signing-key-file={keys.authority.pair.key}",
        "--use-service-account-credentials",
        "--leader-elect=false",
    ]
