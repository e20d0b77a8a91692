"""kubectl with one kubeconfig and a cache of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.binaries import binary
from cluster.deadline import until

ESTABLISH_S = 180.0
"""On a busy machine; a second or two otherwise."""
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class KubectlError(RuntimeError):
    """kubectl failed; the message holds the command and what it said, `output` what of that is its standard output."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


@dataclass(frozen=True)
class Kubectl:
    kubeconfig: Path
    context: str | None = None

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 120) -> str:
        """Run kubectl and answer its output. Raises KubectlError."""
        try:
            ran = subprocess.run(
                [*self._command, *arguments],
                input=stdin,
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise KubectlError(f"kubectl {' '.join(arguments)}: no end after {timeout:.0f} s") from error
        if ran.returncode:
            said = ran.stderr.strip() or ran.stdout.strip()
            raise KubectlError(f"kubectl {' '.join(arguments)}: {said}", ran.stdout)
        return ran.stdout

    @property
    def _command(self) -> list[str]:
        return [str(binary("kubectl")), *(["--context", self.context] if self.context else [])]

    @property
    def environment(self) -> dict[str, str]:
        """Variables for programs that read a kubeconfig, helm among them. A test cluster is behind no proxy."""
        kept = {name: value for name, value in os.environ.items() if name.upper() not in PROXIES}
        # What one cluster offers must not be remembered for the next at the same address.
        return kept | {"KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": str(self.kubeconfig.parent / "discovery")}

    def json(self, *arguments: str) -> Any:
        """Run kubectl with `-o json` and read its answer."""
        return json.loads(self(*arguments, "-o", "json"))

    def apply(self, manifests: Iterable[dict[str, Any]] | str) -> None:
        """Apply objects, or YAML, on the server's side; definitions among them are established afterwards."""
        text = manifests if isinstance(manifests, str) else yaml.safe_dump_all(manifests)
        done = self("apply", "--server-side", "--force-conflicts", "-f", "-", "-o", "name", stdin=text)
        if definitions := [name for name in done.split() if name.startswith("customresourcedefinition.")]:
            # kubectl wait gives up on one that has no conditions at all yet.
            until("the definitions are established", lambda: self._established(definitions), ESTABLISH_S, every=0.3)

    def _established(self, definitions: list[str]) -> bool:
        # A definition that was made just now has none.
        found = [self.json("get", each).get("status", {}).get("conditions") or [] for each in definitions]
        return all(("Established", "True") in {(each["type"], each["status"]) for each in every} for every in found)

    @contextmanager
    def forward(self, namespace: str, target: str, port: int) -> Iterator[str]:
        """An address such as "127.0.0.1:40123" that leads to one pod of a target such as "service/web"."""
        arguments = ["port-forward", "--namespace", namespace, target, f":{port}"]
        command = [*self._command, *arguments]
        with subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                line = process.stdout.readline()
                if (found := re.search(r"127\.0\.0\.1:\d+", line)) is None:
                    raise KubectlError(f"kubectl {' '.join(arguments)} did not begin; its standard error says why")
                yield found[0]
            finally:
                process.terminate()
