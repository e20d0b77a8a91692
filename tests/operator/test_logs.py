"""What a log line says."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

from rayfleet_operator import logs


def record(message: str, *arguments: object, error: BaseException | None = None) -> logging.LogRecord:
    trace = (type(error), error, error.__traceback__) if error is not None else None
    return logging.LogRecord("rayfleet_operator.x", logging.WARNING, __file__, 1, message, arguments, trace)


def test_a_line_is_one_json_object_with_the_fleet_it_belongs_to() -> None:
    with logs.reconciling("ml/vision") as reconcile:
        line = json.loads(logs.JsonFormatter().format(record("two\nlines %s", "é")))

    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "rayfleet_operator.x",
        "msg": "two\nlines é",
        "fleet": "ml/vision",
        "reconcile": reconcile,
    }
    assert "fleet" not in json.loads(logs.JsonFormatter().format(record("after")))


def test_a_message_of_two_lines_does_not_look_like_two_messages() -> None:
    with logs.reconciling("ml/vision"):
        first, second = logs.TextFormatter().format(record("two\nlines")).splitlines()

    assert first.endswith("WARNING x [ml/vision] two")
    assert second == "    lines"


def test_a_trace_is_shown() -> None:
    try:
        raise ValueError("no")
    except ValueError as error:
        failed = record("failed", error=error)

    assert "ValueError: no" in json.loads(logs.JsonFormatter().format(failed))["trace"]
    assert logs.TextFormatter().format(failed).endswith("ValueError: no")


def test_libraries_are_quiet_and_the_operator_is_not() -> None:
    program = """
import logging
from rayfleet_operator import logs
logs.configure("INFO", "text")
for name in ("httpx", "kopf.activities", "kopf._core.reactor.running", "rayfleet_operator.manager"):
    logging.getLogger(name).info("hello from %s", name)
logging.getLogger("kopf._core.reactor.running").warning("OS signals are ignored")
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert said.stdout == ""
    (line,) = said.stderr.splitlines()
    assert line.endswith("manager hello from rayfleet_operator.manager")
