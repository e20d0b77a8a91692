"""The test cluster's Go programs, built from the modules that tools/*/go.mod pin, and kept in a cache.

`binary("kubectl")` answers a path and builds what is missing or was built from other pins. The cache is
RAYFLEET_CLUSTER_CACHE, or ~/.cache/rayfleet/cluster. `python -m cluster.binaries [NAME or GROUP ...]` builds ahead.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cluster.locks import exclusive, say

TOOLS = Path(__file__).parent / "tools"
OLDEST_GO = (1, 26)


class BuildError(RuntimeError):
    """A binary could not be built; the message says what would help."""


@dataclass(frozen=True)
class Tool:
    folder: str
    module: str
    command: str = ""
    """The program's folder within the module."""
    stamped: bool = False
    """Whether the program has to be told its version, as Kubernetes' programs have."""
    tags: str = ""
    """Go's build tags: what of it is left out."""

    @property
    def package(self) -> str:
        return f"{self.module}/{self.command}" if self.command else self.module


def _kubernetes(name: str) -> Tool:
    return Tool("kubernetes", "k8s.io/kubernetes", f"cmd/{name}", stamped=True)


BINARIES = {
    "etcd": Tool("etcd", "go.etcd.io/etcd/server/v3"),
    "kube-apiserver": _kubernetes("kube-apiserver"),
    "kubectl": _kubernetes("kubectl"),
    "kube-controller-manager": _kubernetes("kube-controller-manager"),
    "kube-scheduler": _kubernetes("kube-scheduler"),
    "kube-proxy": _kubernetes("kube-proxy"),
    "kubelet": _kubernetes("kubelet"),
    "kuberay-operator": Tool("kuberay", "github.com/ray-project/kuberay/ray-operator"),
    "coredns": Tool("coredns", "rayfleet.io/tests/cluster/coredns"),
    "pause": Tool("pause", "rayfleet.io/tests/cluster/pause"),
    "helm": Tool("helm", "helm.sh/helm/v4", "cmd/helm"),
    "kind": Tool("kind", "sigs.k8s.io/kind"),
    # Without the clients of a dozen clouds that it could ask what to scrape: a third of the build.
    "prometheus": Tool("prometheus", "github.com/prometheus/prometheus", "cmd/prometheus", tags="remove_all_sd"),
}
ENVTEST = ("etcd", "kube-apiserver", "kubectl")
GROUPS = {
    "envtest": ENVTEST,
    "tests": (*ENVTEST, "kube-controller-manager", "kuberay-operator", "pause", "helm", "prometheus"),
    "node": tuple(name for name in BINARIES if name not in (*ENVTEST, "helm", "kind", "prometheus")),
    "all": tuple(BINARIES),
}


def cache() -> Path:
    """The folder that keeps what takes long to make."""
    named = os.environ.get("RAYFLEET_CLUSTER_CACHE")
    return Path(named).absolute() if named else Path.home() / ".cache" / "rayfleet" / "cluster"


def binary(name: str) -> Path:
    """The path of a built program, building it first where needed. Raises BuildError."""
    build([name])
    return cache() / "bin" / name


def build(names: Iterable[str]) -> None:
    """Build what is missing or stale of the named programs; each by one process at a time. Raises BuildError."""
    wanted = list(dict.fromkeys(names))
    if unknown := sorted(set(wanted) - set(BINARIES)):
        raise BuildError(f"no such binary: {', '.join(unknown)}; there are {', '.join(BINARIES)}")
    for folder in dict.fromkeys(BINARIES[name].folder for name in wanted if not _fresh(name)):
        with exclusive(cache() / f"{folder}.lock", f"it builds tools/{folder}"):
            if stale := [name for name in wanted if BINARIES[name].folder == folder and not _fresh(name)]:
                _build_folder(folder, stale)


def module_folder(name: str) -> Path:
    """The source of a program's module in Go's module cache, downloaded where needed. Raises BuildError."""
    tool = BINARIES[name]
    found = _go("mod", "download", "-json", tool.module, folder=TOOLS / tool.folder)
    return Path(json.loads(found)["Dir"])


def version(name: str) -> str:
    """The version of the module that a program is pinned to, such as "v1.35.4"."""
    tool = BINARIES[name]
    return _pinned(tool.folder, tool.module)


def _pinned(folder: str, module: str) -> str:
    found = re.search(rf"(?m)^\s*(?:require )?{re.escape(module)} (v\S+)", (TOOLS / folder / "go.mod").read_text())
    if found is None:
        raise BuildError(f"tools/{folder}/go.mod pins no version of {module}")
    return found[1]


def _ldflags(tool: Tool) -> str:
    if not tool.stamped:
        return "-s -w"
    number = _pinned(tool.folder, tool.module)
    major, minor = number.removeprefix("v").split(".")[:2]
    variable = "k8s.io/component-base/version.git"
    return f"-s -w -X {variable}Version={number} -X {variable}Major={major} -X {variable}Minor={minor}"


def digest(name: str) -> str:
    """What a program is built from: the pins, its own source, the flags and the platform."""
    tool = BINARIES[name]
    folder = TOOLS / tool.folder
    flags = f"{_ldflags(tool)} {tool.tags}".strip()
    found = hashlib.sha256(f"{tool.package} {flags} {platform.system()} {platform.machine()}".encode())
    for file in sorted(file for file in folder.iterdir() if file.name in ("go.mod", "go.sum") or file.suffix == ".go"):
        found.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return found.hexdigest()


def _stamp(name: str) -> Path:
    return cache() / "bin" / f".{name}.digest"


def _fresh(name: str) -> bool:
    stamp = _stamp(name)
    return (cache() / "bin" / name).is_file() and stamp.is_file() and stamp.read_text() == digest(name)


def _build_folder(folder: str, names: list[str]) -> None:
    """One `go build` for the programs of one module: what they share is compiled once."""
    _check_go()
    target = cache() / "bin"
    target.mkdir(parents=True, exist_ok=True)
    tool = BINARIES[names[0]]
    say(f"building {', '.join(names)}; minutes the first time")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=cache(), prefix="build-") as made:
        packages = [BINARIES[name].package for name in names]
        output = f"{made}/{names[0]}" if len(names) == 1 else made
        flags = ["-buildvcs=false", "-tags", tool.tags, "-ldflags", _ldflags(tool), "-o", output]
        # `pause` is all that its image holds, so it brings no C library along.
        environment = {"CGO_ENABLED": "0"} if folder == "pause" else {}
        _go("build", *flags, *packages, folder=TOOLS / folder, environment=environment)
        for name in names:
            # The stamp goes first and comes last: whoever is killed in between leaves a binary that is built again.
            _stamp(name).unlink(missing_ok=True)
            os.replace(Path(made) / name, target / name)  # a running program keeps its old file
            _stamp(name).write_text(digest(name))
    say(f"built {', '.join(names)} in {time.monotonic() - started:.0f} s")


def _check_go() -> None:
    if shutil.which("go") is None:
        raise BuildError(f"the test cluster is built with Go {_dotted(OLDEST_GO)} or newer, and no `go` is on PATH")
    reported = subprocess.run(["go", "env", "GOVERSION", "GOTOOLCHAIN"], capture_output=True, text=True, check=True)
    number, toolchain = reported.stdout.splitlines()
    found = re.match(r"go(\d+)\.(\d+)", number)
    if found is None:
        return  # a development version of Go knows best itself
    present = (int(found[1]), int(found[2]))
    # Go 1.21 and newer fetch the toolchain that go.mod asks for, where they may.
    if present < OLDEST_GO and (present < (1, 21) or toolchain == "local"):
        raise BuildError(f"the test cluster is built with Go {_dotted(OLDEST_GO)} or newer; `go` is {number}")


def _dotted(number: tuple[int, int]) -> str:
    return ".".join(map(str, number))


def _go(*arguments: str, folder: Path, environment: dict[str, str] | None = None) -> str:
    command = ["go", *arguments]
    ran = subprocess.run(
        command, cwd=folder, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )
    if ran.returncode:
        reason = "\n".join((ran.stderr or ran.stdout).strip().splitlines()[-20:])
        raise BuildError(f"`{' '.join(command)}` in tools/{folder.name} failed:\n{reason}")
    return ran.stdout


def main(arguments: list[str]) -> int:
    """Build the named programs and groups, or all of them."""
    names = [name for word in arguments or ["all"] for name in GROUPS.get(word, (word,))]
    try:
        build(names)
    except BuildError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
