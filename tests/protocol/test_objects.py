"""Values inside object arrays: what a model answers is written alike with and without a msgpack hop in between."""

from __future__ import annotations

import datetime
import subprocess
import sys
from typing import Any

import msgpack
import numpy as np
import orjson
import pandas as pd
import pytest
from pydantic import BaseModel

from rayfleet_serving.protocol import invocations, oip, outputs, predict
from rayfleet_serving.protocol.message import InferenceRequest, InferenceResult
from rayfleet_serving.signature import Signature


class Box(BaseModel):
    corner: tuple[int, int]


class Anything(BaseModel):
    value: Any


WHEN = datetime.datetime(2024, 2, 29, 12, 30)
VALUES: list[tuple[Any, Any]] = [
    (pd.NA, None),
    (pd.NaT, None),
    (float("nan"), None),
    (pd.Timestamp(WHEN), "2024-02-29T12:30:00"),
    (WHEN, "2024-02-29T12:30:00"),
    (WHEN.date(), "2024-02-29"),
    (WHEN.time(), "12:30:00"),
    (np.datetime64(WHEN, "us"), "2024-02-29T12:30:00"),
    (np.datetime64(WHEN, "ns"), "2024-02-29T12:30:00"),
    (np.timedelta64(90, "s"), "0:01:30"),
    ({7}, [7]),
    (frozenset(["a"]), ["a"]),
    ((1, 2), [1, 2]),
    (b"\x00\xff", "AP8=\n"),
    (bytearray(b"\x00\xff"), "AP8=\n"),
    (np.bytes_(b"\x00\xff"), "AP8=\n"),
    (np.bool_(True), True),
    (np.int8(-3), -3),
    (np.float64(0.1), 0.1),
    (np.float16(0.5), 0.5),
    (np.longdouble(0.5), "0.5"),
    (np.str_("é"), "é"),
    ("half \ud800", "half ?"),
    ({"\udcff": ["\udcff", ("a", "\udcff")]}, {"?": ["?", ["a", "?"]]}),
    ([Anything(value=["\ud800", 2**70])], [{"value": ["?", 2.0**70]}]),
    (2**64 - 1, 2**64 - 1),
    (-(2**70), -(2.0**70)),
    ([2**2000], [str(2**2000)]),
    (1 + 2j, "(1+2j)"),
    (np.complex64(1 + 2j), "(1+2j)"),
    (np.array([[1, 2]], np.int16), [[1, 2]]),
    (np.array([0.5, np.nan]), [0.5, None]),
    (np.array(["a", pd.NA], dtype=object), ["a", None]),
    (np.array(["2024-01-01"], dtype="datetime64[ns]"), ["2024-01-01T00:00:00"]),
    (Box(corner=(1, 2)), {"corner": [1, 2]}),
    ({"deep": [{"set": {pd.NaT}, "array": np.arange(2)}]}, {"deep": [{"set": [None], "array": [0, 1]}]}),
]


@pytest.mark.parametrize(("value", "written"), VALUES, ids=[f"{type(value).__name__}" for value, _ in VALUES])
def test_a_value_is_written_alike_on_either_side_of_the_hop(value: Any, written: Any) -> None:
    packed = msgpack.packb(value, default=outputs.native, unicode_errors="surrogatepass")
    there = msgpack.unpackb(packed, strict_map_key=False, unicode_errors="surrogatepass")
    for given in (value, there):
        assert orjson.loads(outputs.dumps(given)) == written


@pytest.mark.parametrize("dtype", [object, str])
def test_half_a_character_in_an_answer_does_not_cost_the_answer(dtype: type) -> None:
    result = InferenceResult({"text": np.array(["a\ud800b"], dtype)}, "tensors")
    request = InferenceRequest({"x": np.zeros(1)}, 1, "tensors")
    names = {"model_name": "m", "model_version": "1"}
    (output,) = orjson.loads(oip.encode(result, request, Signature(), **names, request_id="r"))["outputs"]
    assert output["data"] == ["a?b"]
    assert orjson.loads(invocations.encode(result)) == {"predictions": {"text": ["a?b"]}}
    plain = orjson.loads(predict.encode(result, **names, classification=None, labels=()))
    assert plain["predictions"] == [{"text": "a?b"}]


def test_numpys_missing_date_crosses_the_hop_as_null() -> None:
    values = [np.datetime64("NaT"), np.datetime64("NaT", "ns")]
    assert msgpack.unpackb(msgpack.packb(values, default=outputs.native)) == [None, None]


def test_writing_values_needs_no_pandas() -> None:
    check = "import sys, rayfleet_serving.protocol.outputs; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
