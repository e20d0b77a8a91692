"""A machine carries one cluster: a second state folder is refused before it touches what the first one uses."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cluster import machine
from cluster.layout import Layout
from cluster.machine import MachineError, check_alone
from cluster.node import Node
from cluster.sandbox import MARK, Sandbox, named

OURS = Layout(Path("/state/ours"))


def first(name: str) -> list[str]:
    """The command line of a sandbox's first process."""
    return ["/cache/bin/pause", f"{MARK}{name}"]


def test_a_cluster_of_another_state_folder_is_named() -> None:
    found = named([["/sbin/init"], [], first("/state/ours/cluster"), first("/state/theirs/cluster")])
    with pytest.raises(MachineError, match="RAYFLEET_CLUSTER_STATE=/state/theirs make cluster-down"):
        check_alone(OURS, found)


def test_our_own_and_what_is_no_cluster_may_run() -> None:
    talk = ["grep", "-r", f"{MARK}/state/theirs/cluster"]
    check_alone(OURS, named([first("/state/ours/cluster"), first("/state/theirs/docker"), first("/tmp/sandbox"), talk]))


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="namespaces need Linux and root")
def test_a_second_state_folder_leaves_the_first_ones_cluster_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A developer's own cluster may run on this machine.
    touched: list[str] = []
    for name in ("disconnect", "remove_cgroups"):
        monkeypatch.setattr(machine, name, lambda name=name: touched.append(name))
    running = Sandbox(Layout(tmp_path / "first").cluster)
    running.create()
    try:
        with pytest.raises(MachineError, match=str(tmp_path / "first")):
            Node(Layout(tmp_path / "second")).down()
        assert running.pid() is not None
        assert not touched
    finally:
        running.destroy()
