"""`rayfleet measure` finds the curve of what answers, and says why where it cannot."""

from __future__ import annotations

import importlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rayfleet_operator.cli.main import main
from rayfleet_operator.simulation import curve

METRICS = """\
# HELP rayfleet_batch_size Rows in one batch.
# TYPE rayfleet_batch_size histogram
rayfleet_batch_size_sum{{model="digits",replica="r1",version="3"}} {rows}
rayfleet_batch_size_count{{model="digits",replica="r1",version="3"}} {batches}
rayfleet_batch_size_sum{{model="other",replica="r2",version="3"}} 1000.0
rayfleet_batch_size_sum{{model="digits",replica="r3",version="2"}} 1000.0
# HELP rayfleet_replica_load_seconds Fetching the model, loading it and running each batch size once.
# TYPE rayfleet_replica_load_seconds gauge
rayfleet_replica_load_seconds{{model="digits",replica="r1",version="3"}} 3.5
rayfleet_replica_load_seconds{{model="digits",replica="r4",version="3"}} 4.5
rayfleet_replica_load_seconds{{model="digits",replica="r3",version="2"}} 60.0
# HELP rayfleet_batch_duration_seconds One batch in the model.
# TYPE rayfleet_batch_duration_seconds histogram
rayfleet_batch_duration_seconds_bucket{{model="digits",replica="r1",version="3",le="+Inf"}} {batches}
rayfleet_batch_duration_seconds_sum{{model="digits",replica="r1",version="3"}} {seconds}
rayfleet_batch_duration_seconds_count{{model="digits",replica="r1",version="3"}} {batches}
"""


class Endpoint:
    """Stand-in for a fleet with one model, of 2 ms and 1 ms for each row by its own account."""

    def __init__(self) -> None:
        self.example: dict[str, Any] | None = {"instances": [[0.5, 1.5], [2.5, 3.5]]}
        self.inputs = [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
        self.limit = 1000
        self.others = 0
        """Rows of others in each batch."""
        self.status = 200
        self.batches = self.rows = 0
        self.seconds = 0.0
        self.seen: list[tuple[str, Any, str | None]] = []
        """Path, body and the version asked for, of each request."""

    def get(self, path: str) -> tuple[int, bytes]:
        if path == "/metrics":
            numbers = {"rows": self.rows, "batches": self.batches, "seconds": self.seconds}
            return 200, METRICS.format(**numbers).encode()
        if path == "/openapi.json":
            content = {"application/json": {} if self.example is None else {"example": self.example}}
            operation = {"post": {"requestBody": {"content": content}}}
            return 200, json.dumps({"paths": {"/digits/predict": operation}}).encode()
        return 200, json.dumps({"inputs": self.inputs}).encode()

    def post(self, path: str, body: Any, version: str | None) -> tuple[int, bytes]:
        self.seen.append((path, body, version))
        rows = len(body["instances"]) if "instances" in body else body["inputs"][0]["shape"][0]
        time.sleep(0.004)
        for begin in range(0, rows, self.limit):
            size = min(self.limit, rows - begin)
            self.batches += 1
            self.rows += size + self.others
            self.seconds += 0.002 + 0.001 * size
        return self.status, json.dumps({"error": "the model\x1b is out"}).encode()


@contextmanager
def running(endpoint: Endpoint) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(*endpoint.get(self.path))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(*endpoint.post(self.path, body, self.headers.get("x-rayfleet-model-version")))

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("x-rayfleet-model-version", "3")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def measure(endpoint: Endpoint, *arguments: str, model: str = "digits") -> Result:
    with running(endpoint) as url:
        return CliRunner().invoke(main, ["measure", model, "--url", url, "--rounds", "4", *arguments])


def test_the_curve_is_what_the_models_metrics_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = Endpoint()
    # Each answer takes 4 ms, however long the machine does something else meanwhile.
    clock = SimpleNamespace(perf_counter=lambda: 0.004 * len(endpoint.seen))
    monkeypatch.setattr(importlib.import_module("rayfleet_operator.cli.measure"), "time", clock)
    result = measure(endpoint, "--most", "12", "--output", str(tmp_path / "curve.json"))
    assert result.exit_code == 0, result.output
    found = curve.read((tmp_path / "curve.json").read_text())
    assert [rows for rows, _ in found.points] == [1, 2, 4, 8, 12]
    assert [seconds for _, seconds in found.points] == pytest.approx([0.003, 0.004, 0.006, 0.010, 0.014])
    # Of which the stand-in says that a batch of one row took 3.
    assert found.hop_s == pytest.approx(0.001)
    # The slowest replica of this version, and what Ray takes.
    assert found.start_up_s == pytest.approx(4.5 + 2.5)
    assert (found.model, found.version) == ("digits", "3")


def test_without_a_file_the_curve_is_printed() -> None:
    result = measure(Endpoint(), "--most", "2")
    assert curve.read(result.stdout).points[0][0] == 1
    assert "1 row: 3 ms" in result.stderr


def test_rows_are_those_of_the_example_over_and_over_and_of_one_version() -> None:
    endpoint = Endpoint()
    measure(endpoint, "--most", "3")
    path, body, version = endpoint.seen[-1]
    assert path == "/digits/predict"
    assert body == {"instances": [[0.5, 1.5], [2.5, 3.5], [0.5, 1.5]]}
    assert version == "3"


def test_without_an_example_rows_are_zeros() -> None:
    endpoint = Endpoint()
    endpoint.example = None
    endpoint.inputs.append({"name": "s", "datatype": "BYTES", "shape": [-1]})
    assert measure(endpoint, "--most", "2").exit_code == 0
    path, body, _ = endpoint.seen[-1]
    assert path == "/v2/models/digits/infer"
    assert body["inputs"] == [
        {"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [0] * 6},
        {"name": "s", "shape": [2], "datatype": "BYTES", "data": ["", ""]},
    ]


def test_an_example_that_is_only_described_is_no_example() -> None:
    endpoint = Endpoint()
    endpoint.example = {"instances": ["float32 of shape [3, 224, 224]"]}
    measure(endpoint, "--most", "2")
    assert endpoint.seen[-1][0] == "/v2/models/digits/infer"


def test_rows_can_be_given(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('{"instances": [[7, 8]]}')
    endpoint = Endpoint()
    assert measure(endpoint, "--most", "2", "--body", str(tmp_path / "rows.json")).exit_code == 0
    assert endpoint.seen[-1][1] == {"instances": [[7, 8], [7, 8]]}


def failed(endpoint: Endpoint, *arguments: str, model: str = "digits") -> str:
    result = measure(endpoint, *arguments, model=model)
    assert result.exit_code == 1, result.output
    return result.stderr


def test_a_batch_of_more_rows_than_the_model_takes_is_told() -> None:
    endpoint = Endpoint()
    endpoint.limit = 4
    assert "digits runs 8 rows in 2 batches; give --most 4" in failed(endpoint, "--most", "16")


def test_where_nobody_says_how_many_rows_what_it_runs_in_one_batch_is_measured() -> None:
    endpoint = Endpoint()
    endpoint.limit = 6
    result = measure(endpoint)
    assert result.exit_code == 0, result.output
    assert [rows for rows, _ in curve.read(result.stdout).points] == [1, 2, 4]
    assert "digits runs 8 rows in 2 batches: its maxBatchSize is less" in result.stderr


def test_requests_of_others_spoil_the_measurement() -> None:
    endpoint = Endpoint()
    endpoint.others = 1
    assert "8 rows where 4 were sent: somebody else asks it" in failed(endpoint)


def test_a_model_that_is_not_there() -> None:
    assert "there is no model ghost at http://127.0.0.1" in failed(Endpoint(), model="ghost")


def test_a_model_without_example_and_signature() -> None:
    endpoint = Endpoint()
    endpoint.example, endpoint.inputs = None, []
    assert "digits has neither an example nor a signature; give its rows with --body" in failed(endpoint)


def test_a_models_error_is_shown_and_harmless() -> None:
    endpoint = Endpoint()
    endpoint.status = 503
    text = failed(endpoint)
    assert r"/digits/predict answered 503: the model\x1b is out" in text
    assert "\x1b" not in text


def test_nobody_there() -> None:
    result = CliRunner().invoke(main, ["measure", "digits", "--url", "http://127.0.0.1:1"])
    assert result.exit_code == 1
    assert "http://127.0.0.1:1/openapi.json cannot be reached" in result.stderr


def test_rows_that_are_none(tmp_path: Path) -> None:
    for text, said in (("{", "cannot be read as JSON"), ("{}", "holds no rows"), ("[]", "holds no rows")):
        (tmp_path / "rows.json").write_text(text)
        assert said in failed(Endpoint(), "--body", str(tmp_path / "rows.json"))
