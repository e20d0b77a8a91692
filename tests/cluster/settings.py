"""The configuration files of a node's programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from cluster.components import DOMAIN
from cluster.layout import CGROUP, DNS, NODE, NODE_ADDRESS, PAUSE_IMAGE, PODS, Layout

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
CNI_PLUGINS = "/usr/lib/cni"
"""Where Debian's containernetworking-plugins puts them."""


def write(layout: Layout) -> None:
    """Write every file anew."""
    folder = layout.config
    files = {
        "containerd.toml": containerd(layout),
        "cni/10-rayfleet.conflist": json.dumps(network(), indent=2),
        "kubelet.yaml": yaml.safe_dump(kubelet(layout)),
        "kube-proxy.yaml": yaml.safe_dump(kube_proxy(folder / "kube-proxy.kubeconfig")),
        "Corefile": corefile(folder / "coredns.kubeconfig"),
        "resolv.conf": f"nameserver {NODE_ADDRESS}\n",
    }
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def containerd(layout: Layout) -> str:
    """Its state is below the sandbox's own /run; images are kept on the disk, beyond the cluster's life."""
    return f"""\
version = 2
root = "{layout.containerd}"
state = "/run/containerd"
oom_score = 0
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true  # without CAP_SYS_RESOURCE a negative score cannot be written
  disable_apparmor = true
  enable_selinux = false
  tolerate_missing_hugetlb_controller = true
  disable_hugetlb_controller = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PLUGINS}"
    conf_dir = "{layout.config / "cni"}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


def network() -> dict[str, Any]:
    """A wire for each pod. Every packet is routed, so services need no filter on a bridge."""
    ranges = [[{"subnet": PODS}]]
    addresses = {"type": "host-local", "dataDir": "/run/cni", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]}
    return {"cniVersion": "1.0.0", "name": "rayfleet", "plugins": [{"type": "ptp", "ipMasq": False, "ipam": addresses}]}


def kubelet(layout: Layout) -> dict[str, Any]:
    """Pods are never evicted for a full disk, which is the machine's and not the test's affair."""
    certificates = layout.certificates
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(certificates / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(certificates / "kubelet.crt"),
        "tlsPrivateKeyFile": str(certificates / "kubelet.key"),
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "clusterDNS": [DNS],
        "clusterDomain": DOMAIN,
        "resolvConf": str(layout.config / "resolv.conf"),
        "podLogsDir": str(layout.logs / "pods"),
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
            "imagefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "nodeStatusUpdateFrequency": "5s",
        "makeIPTablesUtilChains": False,
        "registerNode": True,
    }


def kube_proxy(kubeconfig: Path) -> dict[str, Any]:
    """With nftables, which needs no further program but nft."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "bindAddress": NODE_ADDRESS,
        "hostnameOverride": NODE,
        "clusterCIDR": PODS,
        "oomScoreAdj": 0,
        "conntrack": {"maxPerCore": 0, "min": 0},
        "clientConnection": {"kubeconfig": str(kubeconfig)},
    }


def corefile(kubeconfig: Path) -> str:
    """Names of the cluster; every other is refused at once, because nothing else can be reached."""
    return f"""\
{DOMAIN}:53 in-addr.arpa:53 ip6.arpa:53 {{
    bind {NODE_ADDRESS}
    errors
    kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 5
    }}
    cache 5
    loadbalance
}}
.:53 {{
    bind {NODE_ADDRESS}
    health {NODE_ADDRESS}:8180
    ready {NODE_ADDRESS}:8181
    template ANY ANY . {{
        rcode NXDOMAIN
    }}
}}
"""


def bootstrap() -> list[dict[str, Any]]:
    """DNS is a program on the node behind a Service; the API server may ask the kubelet for logs and shells."""
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    dns = {"name": "kube-dns", "namespace": "kube-system"}
    slice_ = {**dns, "name": "kube-dns-node", "labels": {"kubernetes.io/service-name": "kube-dns"}}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": dns, "spec": {"clusterIP": DNS, "ports": ports}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": slice_,
            "addressType": "IPv4",
            "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": True}}],
            "ports": ports,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "system:coredns"},
            "rules": [
                {
                    "apiGroups": [""],
                    "resources": ["endpoints", "services", "pods", "namespaces"],
                    "verbs": ["list", "watch"],
                },
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            ],
        },
        _binding("system:coredns", "system:coredns"),
        _binding("kube-apiserver-kubelet-client", "system:kubelet-api-admin"),
    ]


def _binding(user: str, role: str) -> dict[str, Any]:
    group = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"rayfleet-tests:{user}"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "User", "apiGroup": group, "name": user}],
    }
