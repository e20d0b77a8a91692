"""One number out of an answer of Prometheus' `/api/v1/query`."""

from __future__ import annotations

import json
import math
from typing import Any

from rayfleet_operator import exchange
from rayfleet_operator.api.problems import harmless
from rayfleet_operator.plan.measured import Answer

MOST_SAID = 200
"""Characters of an error: several of them stand in one status."""
STRANGE = Answer(problem="what answers there does not answer as Prometheus does")


def read(answer: exchange.Answer) -> Answer:
    """See https://prometheus.io/docs/prometheus/latest/querying/api/ for the forms."""
    try:
        body = json.loads(answer.content)
    # Brackets within brackets without end are valid JSON, too.
    except (ValueError, RecursionError):
        body = None
    match body:
        # Comes with a status of 4xx or 5xx.
        case {"status": "error", "errorType": str(kind), "error": str(text)}:
            return Answer(problem=_said(f"{kind}: {text}"))
        # Of Thanos and others: an answer without what some of its stores know.
        case {"status": "success", "warnings": [str(text), *_]}:
            return Answer(problem=_said(f"it is answered with a warning: {text}"))
        case {"status": "success", "data": {"resultType": str(kind), "result": result}} if answer.is_success:
            return _number(kind, result)
    if answer.status in (401, 403):
        return Answer(problem=f"{answer.status}: it takes no question without a token (RAYFLEET_PROMETHEUS_TOKEN_FILE)")
    return STRANGE if answer.is_success else Answer(problem=_said(f"{answer.status}: {answer.phrase}"))


def _number(kind: str, result: Any) -> Answer:
    match kind, result:
        case ("vector", []):
            return Answer()
        case ("scalar", [_, str(text)]) | ("vector", [{"value": [_, str(text)]}]):
            return _value(text)
        case ("vector", [{"histogram": _}]):
            return Answer(problem="it is a histogram; take one number of it, by histogram_quantile() for example")
        case ("vector", [_, _, *_]):
            return Answer(problem="there are several series; make one of them, by sum() for example")
        case ("matrix" | "string", _):
            return Answer(problem=f"it is a {kind}; ask for one number")
    return STRANGE


def _value(text: str) -> Answer:
    """NaN and the infinite ones are what a division by nothing gives: nothing was measured."""
    try:
        number = float(text)
    except ValueError:
        return STRANGE
    return Answer(value=number) if math.isfinite(number) else Answer()


def _said(text: str) -> str:
    """In one line, and short."""
    line = harmless(" ".join(text.split()))
    return line if len(line) <= MOST_SAID else f"{line[: MOST_SAID - 1]}…"
