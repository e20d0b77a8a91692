"""`rayfleet predict` shows what a model says; a terminal obeys nothing of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from registry.stand_in import http, stand_in

from rayfleet_operator.cli.main import main

SAID = "bad \x1b]0;owned\x07 \x1b[2J\x9b2J\u202e ünï"


async def predict(folder: Path, reply: bytes) -> Result:
    file = folder / "rows.json"
    await asyncio.to_thread(file.write_text, "{}")
    async with stand_in(lambda _: reply) as server:
        arguments = ["predict", "a", str(file), "--url", server.uri]
        return await asyncio.to_thread(CliRunner().invoke, main, arguments)


@pytest.mark.parametrize("body", [json.dumps({"error": SAID, "field": "a\x1b"}), SAID], ids=["JSON", "text"])
async def test_a_models_error_is_harmless(tmp_path: Path, body: str) -> None:
    result = await predict(tmp_path, http("422 No", body.encode()))
    assert result.exit_code == 1
    assert r"bad \x1b]0;owned\x07 \x1b[2J\x9b2J\u202e ünï" in result.output
    assert result.output.strip().isprintable()


async def test_an_answer_is_harmless_and_still_json(tmp_path: Path) -> None:
    result = await predict(tmp_path, http("200 OK", json.dumps({"label": SAID}).encode()))
    assert result.exit_code == 0
    assert all(line.isprintable() for line in result.output.splitlines())
    assert "ünï" in result.output
    assert json.loads(result.output) == {"label": SAID}
