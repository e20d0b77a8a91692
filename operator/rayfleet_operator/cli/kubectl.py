"""kubectl, as the commands that ask Kubernetes use it: it knows every way to sign in."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

import click

from rayfleet_operator.api.problems import harmless

Json = dict[str, Any]

REQUEST_S = 20
"""For each answer of the API server."""
END_S = 120.0
"""Until kubectl ends: it may have somebody sign in first."""
KLOG = re.compile(r"[EWI][0-9]{4} [0-9:.]+ ")
"""How lines of kubectl's own log begin, which tell its makers something."""
NO_KIND = re.compile(
    r"the server doesn't have a resource type|could not find the requested resource|no matches for kind"
)


REACHED = "is the cluster of this context up, and can it be reached from here?"


class KubectlError(click.ClickException):
    """kubectl did not do what it was asked to, and why. Exits with 1."""


class KindMissingError(KubectlError):
    """The cluster does not know what was asked for."""


class NotAllowedError(KubectlError):
    """The user may not see what was asked for."""


class Kubectl:
    """One cluster, by the options that kubectl itself has."""

    def __init__(self, *, context: str | None, kubeconfig: str | None) -> None:
        given = {"--context": context, "--kubeconfig": kubeconfig}
        self._options = [f"{option}={value}" for option, value in given.items() if value]

    def __call__(self, *arguments: str, namespace: str | None = None, stdin: str | None = None) -> str:
        """Run kubectl and answer its standard output.

        Args:
            namespace: None for the context's own.

        Raises:
            KubectlError: it is not there, does not end, or says that something is wrong.
        """
        program = shutil.which("kubectl")
        if program is None:
            raise KubectlError("no kubectl is on PATH to reach Kubernetes with; install it, or put its folder on PATH")
        where = [f"--namespace={namespace}"] if namespace else []
        command = [program, *arguments, f"--request-timeout={REQUEST_S}s", *where, *self._options]
        try:
            ran = subprocess.run(  # noqa: S603 - the user's own kubectl, with no shell between
                command, input=stdin, capture_output=True, text=True, errors="replace", check=False, timeout=END_S
            )
        except subprocess.TimeoutExpired as error:
            raise KubectlError(f"kubectl {arguments[0]} did not end within {END_S:g} s; {REACHED}") from error
        except OSError as error:
            raise KubectlError(f"{program} cannot be run: {error.strerror}") from error
        if ran.returncode:
            raise _error(arguments[0], ran.stderr or ran.stdout)
        return ran.stdout

    def get(self, kind: str, names: Sequence[str] = (), *, namespace: str | None, labels: str = "") -> list[Json]:
        """Objects of one kind: those of these names, as far as they are there, or all with these labels.

        Raises:
            KindMissingError, NotAllowedError, KubectlError: see there.
        """
        which = [*names, "--ignore-not-found"] if names else [f"--selector={labels}"]
        text = self("get", kind, *which, "-o", "json", "--show-managed-fields", namespace=namespace)
        if not text.strip():
            return []
        try:
            found = json.loads(text)
            objects = found["items"] if found["kind"] == "List" else [found]
            if not all(isinstance(each["metadata"]["name"], str) for each in objects):
                raise TypeError
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise KubectlError(f"kubectl get {kind} did not answer with objects in JSON; is it a kubectl?") from error
        return list(objects)


def _error(command: str, output: str) -> KubectlError:
    said = harmless("\n".join(line for line in output.splitlines() if line and not KLOG.match(line)))
    said = said.removeprefix("error: ") or f"kubectl {command} failed, and did not say why"
    if NO_KIND.search(said):
        return KindMissingError(said)
    if "(Forbidden)" in said:
        return NotAllowedError(said)
    if "Unable to connect" in said or "timeout" in said.lower() or "connection" in said:
        said += f"\n{REACHED}"
    return KubectlError(said)
