"""What a small body may cost: depth, and tables of all rows by all names."""

from __future__ import annotations

import tracemalloc

import orjson
import pytest

from rayfleet_serving.protocol import invocations, jsontext, oip, predict
from rayfleet_serving.protocol.message import RequestError
from rayfleet_serving.signature import Field, Signature

ANY = Signature()
OBJECTS = Signature(form="frame", inputs=(Field(name="tree", dtype="object"),))
FLAT = Signature(form="tensor", inputs=(Field(name="input", dtype="float64", shape=(-1, 2)),))


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


SHALLOW = [
    ("64 deep", nested(64)),
    ("brackets in a string", f'["{nested(500)}"]'),
    ("open brackets in a string", f'["{"[" * 500}", []]'),
    ("after an escaped quote", f'["\\"{"[" * 500}", []]'),
    ("after an escaped backslash", f'["\\\\", ["{"[" * 500}"]]'),
    ("after both", f'["\\\\\\"{"[" * 500}", []]'),
    ("in a key", f'{{"{"{" * 500}": 1}}'),
    ("wide", f"[{', '.join([nested(20)] * 500)}]"),
]
DEEP = [
    ("65 deep", nested(65)),
    ("objects", '{"a":' * 65 + "1" + "}" * 65),
    ("closing brackets in strings", '["]",' * 65 + "1" + "]" * 65),
    ("quotes escaped", '["\\"]",' * 65 + "1" + "]" * 65),
    ("backslashes escaped", '["\\\\","]",' * 65 + "1" + "]" * 65),
    ("late", f"[{'[],' * 500}{nested(64)}]"),
]


@pytest.mark.parametrize("text", [case[1] for case in SHALLOW], ids=[case[0] for case in SHALLOW])
def test_depth_counts_levels_and_not_brackets(text: str) -> None:
    assert jsontext.parse(text.encode()) == orjson.loads(text)


@pytest.mark.parametrize("text", [case[1] for case in DEEP], ids=[case[0] for case in DEEP])
def test_deep_json_is_refused_wherever_it_stands(text: str) -> None:
    tensor = {"name": "tree", "shape": [1], "datatype": "BYTES", "data": [text]}
    csv = f'tree\n"{text.replace(chr(34), chr(34) * 2)}"\n'
    for decode in (
        lambda: jsontext.parse(text.encode()),
        lambda: invocations.decode(b'{"dataframe_records": [{"tree": %s}]}' % text.encode(), None, OBJECTS),
        lambda: predict.decode_json(b'{"instances": [{"tree": %s}]}' % text.encode(), OBJECTS),
        lambda: oip.decode(orjson.dumps({"inputs": [tensor]}), OBJECTS),
        lambda: invocations.decode(csv.encode(), "text/csv", OBJECTS),
    ):
        with pytest.raises(RequestError, match="nested over 64 levels deep") as caught:
            decode()
        assert caught.value.status == 400


def test_objects_of_64_levels_arrive_as_text_too() -> None:
    text = nested(64)
    tensor = {"name": "tree", "shape": [1], "datatype": "BYTES", "data": [text]}
    for request in (
        oip.decode(orjson.dumps({"inputs": [tensor]}), OBJECTS),
        invocations.decode(f"tree\n{text}\n".encode(), "text/csv", OBJECTS),
    ):
        assert request.inputs["tree"].tolist() == [orjson.loads(text)]


@pytest.mark.parametrize("signature", [ANY, FLAT, OBJECTS], ids=["any", "tensor", "frame"])
@pytest.mark.parametrize("wide", [False, True], ids=["a key each", "one wide record"])
def test_records_of_different_names_cost_no_table(signature: Signature, wide: bool) -> None:
    records = [{f"k{row}": 1} for row in range(2000)]
    if wide:
        records = [{name: 1 for record in records for name in record}, *[{}] * 2000]
    body = orjson.dumps({"dataframe_records": records})
    tracemalloc.start()
    try:
        with pytest.raises(RequestError) as caught:
            invocations.decode(body, None, signature)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.status == 400
    assert peak < 4_000_000


def test_without_a_signature_rows_share_their_names() -> None:
    for body in (b'{"dataframe_records": [{"a": 1, "b": 2}, {"a": 1}]}', b'{"instances": [{"a": 1}, {"b": 1}]}'):
        with pytest.raises(RequestError, match="names of the first") as caught:
            invocations.decode(body, None, ANY)
        assert (caught.value.field or "").endswith("[1]")
    request = invocations.decode(b'{"dataframe_records": [{"a": 1, "b": 2}, {"b": 4, "a": 3}]}', None, ANY)
    assert {name: column.tolist() for name, column in request.inputs.items()} == {"a": [1, 3], "b": [2, 4]}


def test_optional_columns_may_be_left_out_of_some_records() -> None:
    signature = Signature(
        form="frame", inputs=(Field(name="x", dtype="float64"), Field(name="s", dtype="str", required=False))
    )
    request = invocations.decode(b'{"dataframe_records": [{"x": 1}, {"x": 2, "s": "b"}]}', None, signature)
    assert request.inputs["s"].tolist() == [None, "b"]


def test_csv_without_a_signature_keeps_as_text_what_only_python_reads_as_a_number() -> None:
    request = invocations.decode("a,b,c\n1_000,٣,\n2,4,1.5\n".encode(), "text/csv", ANY)
    assert request.inputs["a"].tolist() == ["1_000", "2"]
    assert request.inputs["b"].tolist() == ["٣", "4"]
    assert request.inputs["c"].tolist()[1] == 1.5
