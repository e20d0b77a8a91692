"""What is printed of a spec holds no secret that its name or its form gives away."""

from __future__ import annotations

from typing import Any

import pytest

from rayfleet_operator.cli.redaction import LEFT_OUT, MOST, NOT_SHOWN, shown
from rayfleet_operator.render.changes import ABSENT, Named, Path

S = "hunter2"

ENV: Path = ("spec", "env")
MAIN: Path = ("spec", "head", "template", "spec", "containers", Named("ray-head"))


@pytest.mark.parametrize(
    "name",
    [
        "API_TOKEN",
        "DB_PASSWORD",
        "db_passwd",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "GITHUB_PAT",
        "ApiKey",
        "OPENAI_API_KEY",
        "SENTRY_DSN",
        "PGPWD",
        "HTTP_AUTH",
        "AZURE_STORAGE_CONNECTION_STRING",
        "SSH_PRIVATE",
        "OPENAI_KEY",
        "DB_PASS",
        "WEBHOOK_URL",
        "ZONE",
    ],
)
@pytest.mark.parametrize("path", [ENV, (*MAIN, "env")])
def test_a_variable_with_such_a_name_is_not_shown_however_it_comes(path: Path, name: str) -> None:
    variable = {"name": name, "value": S}
    assert shown((*path, Named(name), "value"), S) == NOT_SHOWN
    for value in (variable, [variable], {"env": [variable]}, {"spec": {"containers": [{"env": [variable]}]}}):
        assert S not in shown(path, value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("metadata", "annotations", "example.com/api-token"), S),
        (("metadata", "annotations"), {"example.com/api-token": S}),
        ((*MAIN, "args"), ["--api-token", S]),
        ((*MAIN, "args"), [f"--api-token={S}"]),
        ((*MAIN, "args"), [f"--db-password={S}", "--verbose"]),
        ((*MAIN, "command", 2), f"export PASSWORD={S}; run"),
        ((*MAIN, "command", 2), f"curl -H 'Authorization: Bearer {S}{S}' x"),
        ((*MAIN, "command", 2), f"curl https://me:{S}@example.com"),
        ((*MAIN, "args"), ["curl", "-u", f"me:{S}", "x"]),
        ((*MAIN, "args"), ["run", f"--signing-key={S}"]),
        ((*MAIN, "command", 2), f"curl -u me:{S} x"),
        ((*MAIN, "command", 2), f"curl -ume:{S} x"),
        ((*MAIN, "command", 2), f"curl --user='me:a {S}' x"),
        ((*MAIN, "command", 2), f"DB_PASS={S} run"),
        ((*MAIN, "command", 2), f"export TOKEN='a {S}'; run"),
        ((*MAIN, "command", 2), f'export TOKEN="a\\" {S}"; run'),
        ((*MAIN, "command", 2), f"export TOKEN='a {S}"),
        ((*MAIN, "command", 2), f"run --api-token {S} --verbose"),
        ((*MAIN, "command", 2), f"curl -H 'Authorization: token {S}' x"),
        ((*MAIN, "command", 2), f"curl -H 'Cookie: a=b; c={S}' x"),
        ((*MAIN, "command", 2), f'echo \'{{"password": "a {S}"}}\''),
        ((*MAIN, "command", 2), f"curl https://hooks.slack.com/services/T0/B0/{S}"),
        ((*MAIN, "command", 2), f"curl https://discord.com/api/webhooks/1/{S}"),
        ((*MAIN, "annotations", "hook"), f"https://hooks.slack.com/services/T0/B0/{S}"),
        (("spec", "model", "uri"), f"https://b.s3.amazonaws.com/m?X-Amz-Expires=9&X-Amz-Signature={S}"),
        (("spec", "model", "uri"), f"https://b.blob.core.windows.net/m?sv=1&sig={S}&se=2"),
        *(
            (("metadata", "annotations", f"example.com/{name}"), S)
            for name in ("openai-key", "signing_key", "HF_KEY", "masterKey", "db-pass", "session-cookie", "jwt", "sig")
        ),
        ((*MAIN, "httpHeaders", Named("Authorization"), "value"), S),
        (("spec", "head", "template", "spec", "volumes", Named("v"), "csi", "volumeAttributes", "password"), S),
        (("spec", "head", "template", "spec", "volumes", Named("v"), "csi"), {"volumeAttributes": {"password": S}}),
        (("spec", "model", "registry", "trackingUri"), f"http://me:{S}@mlflow:5000"),
    ],
)
def test_no_secret_is_shown(path: Path, value: Any) -> None:
    assert S not in shown(path, value)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("spec", "image"), "example.com/tokenizer:1.2", "example.com/tokenizer:1.2"),
        (("spec", "model", "uri"), "models:/secret-santa@live", "models:/secret-santa@live"),
        (("spec", "model", "registry", "secretName"), "mlflow-token", "mlflow-token"),
        (("spec", "imagePullSecrets"), ["registry"], '["registry"]'),
        (("spec", "imagePullSecrets", 0), "registry", "registry"),
        (("spec", "envFrom", 0), {"secretName": "tokens"}, '{"secretName": "tokens"}'),
        (
            ("spec", "head", "gcsFaultTolerance", "passwordSecret"),
            {"name": "redis", "key": "password"},
            '{"name": "redis", "key": "password"}',
        ),
        (("spec", "rollout", "sticky", "cookie"), "session", "session"),
        ((*MAIN, "args"), ["-u", "serve.py"], '["-u", "serve.py"]'),
        ((*MAIN, "command", 2), "python -u serve.py a:b", "python -u serve.py a:b"),
        (
            ("spec", "workerGroups", Named("a"), "tolerations", 0),
            {"key": "a", "value": "b"},
            '{"key": "a", "value": "b"}',
        ),
        (("metadata", "annotations", "example.com/keyboard"), "b", "b"),
        (
            ("spec", "head", "template", "spec", "topologySpreadConstraints", 0, "topologyKey"),
            "kubernetes.io/hostname",
            "kubernetes.io/hostname",
        ),
        ((*ENV, Named("API_TOKEN")), {"name": "API_TOKEN"}, '{"name": "API_TOKEN"}'),
        (("spec", "automountServiceAccountToken"), False, "false"),
        (("spec", "replicas"), 2, "2"),
        (("spec", "image"), "", '""'),
        (("spec", "image"), ABSENT, LEFT_OUT),
        ((*ENV, Named("TOKEN"), "value"), ABSENT, LEFT_OUT),
        ((*MAIN, "command", 2), "a\nb\x1b[2Jc", "a\\nb\\x1b[2Jc"),
    ],
)
def test_what_only_speaks_of_one_is_shown(path: Path, value: Any, told: str) -> None:
    assert shown(path, value) == told


def test_a_long_value_is_cut_off() -> None:
    text = shown(("spec", "x"), "y" * 5000)
    assert (len(text), text[-1]) == (MOST, "…")
