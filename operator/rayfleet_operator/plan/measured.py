"""What a rollout's queries are to be asked, and what was answered, as plain data.

A `Question` names the time that its answer is about: one stage of one attempt, from the moment when every router held
the stage's weights. So the answer of another stage, or to a query that was edited since, is never taken for this one's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from rayfleet_operator.api.rollout import PLACEHOLDERS, Query
from rayfleet_operator.api.timestamp import moment
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_serving.config import ModelRoute, RolloutMark

_PLACEHOLDER = re.compile(rf"\{{\{{({'|'.join(PLACEHOLDERS)})\}}\}}")


@dataclass(frozen=True)
class Question:
    model: str
    query: str
    """As in the spec, with its placeholders."""
    window: str
    """The candidate, its attempt, its stage, and since when it is in it."""


@dataclass(frozen=True)
class Answer:
    """With neither a value nor a problem, there was nothing to measure."""

    value: float | None = None
    """Finite."""
    problem: str = ""
    """Why nothing is known. What stands before the first colon says of what kind it is."""


def questions(models: Iterable[ModelDeployment], rows: Mapping[str, ModelRoute], now: datetime) -> dict[Question, str]:
    """What is to be asked now, each with its PromQL.

    Args:
        rows: of the table that was written last, by model.
    """
    found = {}
    for model in models:
        row, analysis = rows.get(model.metadata.name), model.spec.rollout.analysis
        mark = row.rollout if row is not None else None
        if analysis is None or row is None or mark is None or mark.ended or not mark.since or mark.stage < 0:
            continue
        versions = {version.app: version for version in row.versions}
        candidate, stable = versions.get(mark.candidate), versions.get(mark.stable)
        if candidate is None or stable is None or candidate.weight == 0:
            continue
        meant = {
            "namespace": model.metadata.namespace,
            "model": model.metadata.name,
            "candidate": candidate.version,
            "stable": stable.version,
            "window": f"{max(1, int((now - moment(mark.since)).total_seconds()))}s",
        }
        for query in analysis.queries:
            found[_question(model, query, mark)] = _filled(query.query, meant)
    return found


def _filled(query: str, meant: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: meant[found[1]], query)


def answers(model: ModelDeployment, mark: RolloutMark | None, measured: Mapping[Question, Answer]) -> dict[str, Answer]:
    """What was answered about the stage that the mark stands in, by the query's name."""
    analysis = model.spec.rollout.analysis
    if analysis is None or mark is None:
        return {}
    asked = {query.name: _question(model, query, mark) for query in analysis.queries}
    return {name: measured[question] for name, question in asked.items() if question in measured}


def _question(model: ModelDeployment, query: Query, mark: RolloutMark) -> Question:
    window = f"{mark.candidate}/{mark.began}/{mark.stage}/{mark.since}"
    return Question(model.metadata.name, query.query, window)
