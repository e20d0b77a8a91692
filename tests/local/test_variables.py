"""What a local Ray finds in its environment."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from rayfleet_operator.local.variables import FREE_PORTS, variables
from rayfleet_serving.environment import BODY_S, haproxy_command

DOCUMENTED = (Path(__file__).parents[2] / "docs" / "local-mode.md").read_text()


def made(environ: dict[str, str], haproxy: str | None = "/ha/haproxy") -> dict[str, str]:
    return variables(
        environ,
        session="s1",
        token_path=Path("/session/token"),
        folder=Path("/session/ha"),
        free=list(range(4000, 4000 + FREE_PORTS)),
        ingress_port=20_500,
        haproxy=haproxy,
    )


def test_serves_own_variables_hold_when_they_are_given() -> None:
    given = {"RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure", "RAY_SERVE_ENABLE_HA_PROXY": "0", "AWS_REGION": "x"}
    assert given.items() <= made(given).items()
    assert made(given)["RAY_SERVE_ENABLE_DIRECT_INGRESS"] == "0"


def test_nothing_given_can_join_another_ray_or_open_this_one() -> None:
    given = {"RAY_ADDRESS": "10.0.0.1:6379", "RAY_AUTH_TOKEN": "theirs", "RAY_AUTH_MODE": "disabled"}
    found = made(given)
    assert not {"RAY_ADDRESS", "RAY_AUTH_TOKEN"} & found.keys()
    assert (found["RAY_AUTH_MODE"], found["RAY_AUTH_TOKEN_PATH"]) == ("token", "/session/token")


def test_without_haproxy_serves_own_proxy_is_used() -> None:
    found = made({}, haproxy=None)
    assert (found["RAY_SERVE_ENABLE_HA_PROXY"], found["RAY_SERVE_ENABLE_DIRECT_INGRESS"]) == ("0", "0")
    assert "RAY_SERVE_HAPROXY_BINARY_PATH" not in found


@pytest.mark.parametrize("key", sorted(key for key in made({}) if key.startswith("RAY_SERVE_")))
def test_every_variable_is_documented(key: str) -> None:
    assert key in DOCUMENTED or f"`{key.removeprefix('RAY_SERVE_HAPROXY')}`" in DOCUMENTED


def test_haproxy_is_run_wherever_it_lies_with_its_configuration_changed(tmp_path: Path) -> None:
    binary = tmp_path / "a $HOME 'quoted' folder" / "haproxy"
    binary.parent.mkdir()
    binary.write_text('#!/bin/sh\necho "$@"\n')
    binary.chmod(0o700)
    configuration = tmp_path / "a b.cfg"
    configuration.write_text(
        "defaults\n    option abortonclose\n    option splice-request\n    option splice-response\n"
    )
    command = haproxy_command(str(binary), tmp_path / "ha")
    ran = subprocess.run([command, "-db", "-f", configuration, "-sf", "7"], capture_output=True, text=True, check=True)
    assert ran.stdout == f"-db -f {configuration} -sf 7\n"
    assert configuration.read_text().split("\n    ") == [
        "defaults",
        "option abortonclose",
        "option http-buffer-request",
        f"timeout http-request {BODY_S}s",
        f"errorfile 408 {tmp_path / 'ha' / '408.http'}\n",
    ]


def test_serve_writes_what_is_changed() -> None:
    """Another release of Ray may word its configuration otherwise."""
    lines = {line.strip() for line in HAPROXY_CONFIG_TEMPLATE.splitlines()}
    assert {"option abortonclose", "option splice-request", "option splice-response"} <= lines
