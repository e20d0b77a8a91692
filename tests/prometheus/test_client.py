"""What is read out of each answer, and what is said where there is none. Prometheus is a stand-in."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from rayfleet_operator.exchange import MIB
from rayfleet_operator.plan.measured import Answer
from rayfleet_operator.prometheus import client
from rayfleet_operator.prometheus.client import Prometheus
from rayfleet_operator.prometheus.reading import MOST_SAID

from .stand_in import StandIn, error, scalar, stand_in, success, vector


async def asked(server: StandIn, **options: Any) -> Answer:
    async with Prometheus(server.url, **options) as prometheus:
        return await prometheus.value("up")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (vector("0.031"), Answer(0.031)),
        (vector("0"), Answer(0.0)),
        (vector("-1.5e-05"), Answer(-1.5e-05)),
        (scalar("2"), Answer(2.0)),
        (vector(), Answer()),
        (vector("NaN"), Answer()),
        (scalar("NaN"), Answer()),
        (vector("+Inf"), Answer()),
        (vector("-Inf"), Answer()),
    ],
)
async def test_a_number_or_nothing(body: dict[str, Any], expected: Answer) -> None:
    async with stand_in() as server:
        server.say(body)
        assert await asked(server) == expected


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (vector("1", "2"), 200, "several series; make one of them, by sum()"),
        ({**vector("1"), "warnings": ["store 2 is away"]}, 200, "it is answered with a warning: store 2 is away"),
        (success("vector", [{"metric": {}, "histogram": [1, {"count": "5"}]}]), 200, "it is a histogram"),
        (success("matrix", [{"metric": {}, "values": [[1, "1"]]}]), 200, "it is a matrix; ask for one number"),
        (success("string", [1, "up"]), 200, "it is a string"),
        (error("bad_data", '1:5: parse error: unknown function "rat"'), 400, "bad_data: 1:5: parse error: unknown"),
        (error("execution", "many-to-many matching not allowed"), 422, "execution: many-to-many"),
        (error("timeout", "query timed out in expression evaluation"), 503, "timeout: query timed out"),
        (error("bad_data", "a\n\x1b[2Jb"), 400, r"bad_data: a \x1b[2Jb"),
        ({"message": "no"}, 401, "401: it takes no question without a token (RAYFLEET_PROMETHEUS_TOKEN_FILE)"),
        ({}, 403, "403: it takes no question without a token"),
        ({}, 404, "404: Not Found"),
        (vector("1"), 500, "500: Internal Server Error"),
        (success("vector", [{"metric": {}, "value": [1, 1.5]}]), 200, "does not answer as Prometheus does"),
        (success("vector", [{"metric": {}, "value": [1, "many"]}]), 200, "does not answer as Prometheus does"),
        (success("vector", {}), 200, "does not answer as Prometheus does"),
        ({"status": "success"}, 200, "does not answer as Prometheus does"),
    ],
)  # fmt: skip
async def test_what_is_no_number_is_told(body: dict[str, Any], status: int, said: str) -> None:
    async with stand_in() as server:
        server.say(body, status)
        found = await asked(server)
    assert found.value is None
    assert said in found.problem
    assert found.problem.isprintable()


@pytest.mark.parametrize("body", [b"<html>Sign in</html>", b"", b"\xff", b"null", b"[" * 100_000, b'"up"'])
async def test_what_is_no_answer_of_prometheus_is_told(body: bytes) -> None:
    async with stand_in() as server:
        server.body, server.headers = body, {"content-type": "text/html"}
        assert (await asked(server)).problem == "what answers there does not answer as Prometheus does"


async def test_an_error_of_any_length_is_told_in_short() -> None:
    async with stand_in() as server:
        server.say(error("execution", "x" * 10_000), 422)
        assert len((await asked(server)).problem) == MOST_SAID


async def test_the_query_is_sent_as_a_form_below_the_path() -> None:
    async with stand_in("/select/0/prometheus") as server:
        async with Prometheus(server.url) as prometheus:
            await prometheus.value('sum(a{b="c&d=e+f %"})')
        assert server.asked == [
            {
                "query": 'sum(a{b="c&d=e+f %"})',
                "timeout": "5000ms",
                "path": "/select/0/prometheus/api/v1/query",
                "shown": "",
            }
        ]


async def test_the_token_of_now_is_shown_and_never_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = tmp_path / "token"
    async with stand_in() as server, Prometheus(server.url, token) as prometheus:
        token.write_text("first\n")
        await prometheus.value("up")
        token.write_text("second")
        await prometheus.value("up")
        assert [form["shown"] for form in server.asked] == ["Bearer first", "Bearer second"]
    assert "first" not in caplog.text
    assert "second" not in caplog.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        (b" \n", "is empty"),
        (b"hu\nsh", "HTTP forbids"),
        (b"hu\xff", "forbids"),
    ],
)
async def test_without_the_token_that_there_should_be_nobody_is_asked(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    token = tmp_path / "token"
    if content is not None:
        token.write_bytes(content)
    async with stand_in() as server:
        found = await asked(server, token_file=token)
        assert server.asked == []
    assert found.problem.startswith("no token: ")
    assert said in found.problem
    assert "hu" not in found.problem.replace(str(tmp_path), "")


async def test_an_answer_that_is_too_long_is_left() -> None:
    async with stand_in() as server:
        server.body = server.body.ljust(client.LONGEST)
        assert await asked(server) == Answer()
        server.body = server.body.ljust(client.LONGEST + 1)
        assert (await asked(server)).problem.startswith(f"the answer is longer than {client.LONGEST / MIB:g} MiB")
        server.endless = True
        assert "longer than" in (await asked(server)).problem


async def test_silence_is_bounded() -> None:
    async with stand_in() as server:
        server.pause.clear()
        began = time.monotonic()
        found = await asked(server, within_s=0.2)
        assert time.monotonic() - began < 5
    assert found.problem == f"Timeout: no whole answer within 0.2 s ({server.url})"


async def test_where_nobody_listens_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with Prometheus(url) as prometheus:
        found = await prometheus.value("up")
    assert found.problem.startswith(f"Prometheus is unreachable: {url}: ")


@pytest.mark.parametrize("code", [301, 302, 307, 308])
async def test_nobody_is_sent_elsewhere(code: int, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("hush")
    async with stand_in() as server, stand_in() as other:
        server.status, server.headers = code, {"location": f"{other.url}/api/v1/query"}
        found = await asked(server, token_file=token)
        assert other.asked == []
    assert found.problem.startswith(f"{code}: it sends elsewhere")


async def test_where_none_is_configured_the_variable_is_named() -> None:
    async with Prometheus(None) as prometheus:
        found = await prometheus.value("up")
    assert "RAYFLEET_PROMETHEUS_URL" in found.problem


async def test_questions_do_not_wait_for_each_other() -> None:
    async with stand_in() as server, Prometheus(server.url, within_s=60) as prometheus:
        server.pause.clear()
        waiting = [asyncio.create_task(prometheus.value("up")) for _ in range(20)]
        async with asyncio.timeout(30):
            while len(server.asked) < 20:
                await asyncio.sleep(0.01)
        server.pause.set()
        assert await asyncio.gather(*waiting) == [Answer()] * 20
