"""Ports for a local Ray."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from rayfleet_operator.local import ports

CONNECTIONS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_no_connection_can_come_first_to_a_port_that_is_about_to_be_listened_on() -> None:
    first = int(CONNECTIONS.read_text().split()[0]) if CONNECTIONS.exists() else 49152
    found = ports.free(100)
    assert len(set(found)) == 100
    assert max(found) < first


def test_ports_that_are_listened_on_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    start = 31_000
    monkeypatch.setattr(ports, "RANGE", range(start, start + 20))
    there = ports.free(1)[0]
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", there))
        listener.listen()
        with pytest.raises(ports.NoFreePortError, match="20 ports between 31000 and 31019 are needed, and"):
            ports.free(20)


def test_a_port_that_somebody_will_listen_on_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "RANGE", range(31_000, 31_008))
    monkeypatch.setattr(ports, "taken", lambda port: False)
    assert set(ports.free(7, but=[31_003])) == set(range(31_000, 31_008)) - {31_003}
    with pytest.raises(ports.NoFreePortError, match="and 7 are free"):
        ports.free(8, but=[31_003])
