"""Requests made from the router's own OpenAPI document, legal and illegal ones: none may be answered 5xx."""

from __future__ import annotations

from collections import Counter

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    positive_data_acceptance,
    response_schema_conformance,
    status_code_conformance,
)

from .conftest import Zoo

OURS = r"^/(v2|invocations|digits|pair|houses|loose)(/|$)"
OTHERS = r"^/v2/models/(?!digits|pair|houses|loose)"
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_operation(zoo: Zoo, mode: GenerationMode) -> None:
    document = schemathesis.openapi.from_url(f"{zoo.url}/openapi.json")
    document = document.include(path_regex=OURS).exclude(path_regex=OTHERS)
    checks = [*CHECKS, positive_data_acceptance] if mode == GenerationMode.POSITIVE else CHECKS
    codes: Counter[int] = Counter()
    session = requests.Session()
    session.trust_env = False
    operations = [result.ok() for result in document.get_all_operations()]
    assert len(operations) > 10
    for operation in operations:
        if mode == GenerationMode.NEGATIVE and operation.method.upper() == "GET":
            continue  # There is nothing in it that could be wrong.

        @settings(
            max_examples=20,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: schemathesis.Case) -> None:
            response = case.call(session=session)
            codes[response.status_code] += 1
            # Random bytes are legal uploads to a schema, and no images.
            upload = case.media_type is not None and case.media_type != "application/json"
            # Without a signature the schema cannot say more than that there must be rows.
            vague = "loose" in case.operation.path
            case.validate_response(response, checks=CHECKS if upload or vague else checks)

        check()
    print(f"\n{mode.name.lower()} requests by status: {dict(sorted(codes.items()))}")
    assert not [code for code in codes if code >= 500]
    assert codes[200 if mode == GenerationMode.POSITIVE else 400] > 30
