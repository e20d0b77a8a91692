"""Every bad input is refused with its status, in words that help, and with the field at fault."""

from __future__ import annotations

import orjson
import pytest
from protocol.bad_inputs import BAD_INPUTS, BadInput
from protocol.decoding import decode

from rayfleet_serving.protocol import errors
from rayfleet_serving.protocol.message import RequestError


@pytest.mark.parametrize("bad", BAD_INPUTS, ids=lambda bad: f"{bad.protocol.split('/')[-1]}: {bad.name}")
def test_bad_input_is_refused(bad: BadInput) -> None:
    with pytest.raises(RequestError) as caught:
        decode(bad.protocol, bad.model, bad.body, bad.content_type)
    error = caught.value
    answer = orjson.loads(errors.body(error, "r1"))
    assert error.status == bad.status
    assert [word for word in bad.words if word.lower() not in answer["error"].lower()] == [], answer["error"]
    assert len(answer["error"]) < 600
    if bad.field is not None:
        assert answer["field"] == bad.field
    assert answer["request_id"] == "r1"


def test_an_error_holds_whatever_a_model_said() -> None:
    error = RequestError(422, "ModelError", "no \udcff, \ud800 or \0", field="in\udcffput")
    answer = orjson.loads(errors.body(error, "r\udcff"))
    assert answer == {"error": "no ?, ? or \0", "code": "ModelError", "field": "in?put", "request_id": "r?"}
