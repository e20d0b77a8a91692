"""Where the API server is and who we are, as kubeconfigs say it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_clock import Clock

from rayfleet_operator.kube import config
from rayfleet_operator.kube.config import ConfigError, Credentials

SECRET = "s3cr3t-and-never-shown"


def kubeconfig(folder: Path, user: dict[str, Any] | None, **cluster: Any) -> str:
    content: dict[str, Any] = {
        "current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": "https://kube.example:6443/"} | cluster}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "namespace": "ml"} | ({"user": "u"} if user else {})}],
        "users": [{"name": "u", "user": user}] if user else [],
    }
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(content))
    return str(file)


async def test_a_token_is_sent_as_it_stands(tmp_path: Path) -> None:
    connection = config.load(kubeconfig(tmp_path, {"token": SECRET}))

    assert connection.server == "https://kube.example:6443"
    assert await connection.credentials.header() == f"Bearer {SECRET}"
    assert connection.tls.check_hostname


async def test_a_token_file_is_found_beside_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")
    connection = config.load(kubeconfig(tmp_path, {"tokenFile": "token"}))

    assert await connection.credentials.header() == "Bearer abc"


async def test_user_and_password_are_sent_as_basic(tmp_path: Path) -> None:
    connection = config.load(kubeconfig(tmp_path, {"username": "a", "password": "b"}))

    assert await connection.credentials.header() == f"Basic {base64.b64encode(b'a:b').decode()}"


async def test_a_token_file_is_read_again_after_a_minute(tmp_path: Path) -> None:
    clock, token = Clock(), tmp_path / "token"
    credentials = Credentials(token_file=token, clock=clock)
    token.write_text("first")
    assert await credentials.header() == "Bearer first"
    token.write_text("second")
    clock.forward(59)
    assert await credentials.header() == "Bearer first"
    clock.forward(2)
    assert await credentials.header() == "Bearer second"


async def test_a_token_file_that_is_gone_or_empty_is_named(tmp_path: Path) -> None:
    for token in (tmp_path / "gone", tmp_path / "empty"):
        (tmp_path / "empty").write_text("\n")
        with pytest.raises(ConfigError, match=f"token file {token}"):
            await Credentials(token_file=token).header()


@pytest.mark.parametrize(
    ("user", "cluster", "said"),
    [
        (None, {}, "names no user"),
        ({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "aws"}}, {}, "from a plugin"),
        (
            {"token": SECRET, "client-certificate-data": base64.b64encode(SECRET.encode()).decode()},
            {},
            "cannot be used",
        ),
        ({"token": {"a": SECRET}}, {}, "cannot be used"),
        ({"token": SECRET}, {"certificate-authority": "/nowhere/ca.crt"}, "No such file"),
    ],
)
def test_what_cannot_be_used_is_said_without_showing_it(
    tmp_path: Path, user: dict[str, Any] | None, cluster: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as refusal:
        config.load(kubeconfig(tmp_path, user, **cluster))

    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "[]", "a: b", "current-context: x\nclusters: []\ncontexts: []\n", "\x00", "a: ["])
def test_a_file_that_is_no_kubeconfig_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "k").write_text(text)

    with pytest.raises(ConfigError):
        config.load(str(tmp_path / "k"))


def test_without_any_configuration_all_places_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    with pytest.raises(ConfigError, match="KUBECONFIG is not set"):
        config.load(None)
