"""Requests that must be refused, over every protocol: plain data, for the decoders and for a running router alike."""

from __future__ import annotations

import io
import random
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import orjson
from PIL import Image

OIP, INVOCATIONS, PREDICT = "/v2/models/{model}/infer", "/{model}/invocations", "/{model}/predict"
JSON = "application/json"


@dataclass(frozen=True)
class BadInput:
    """One request, and the answer it must get."""

    name: str
    protocol: str
    """Path, with {model}."""
    model: str
    """Of tests/protocol/models.py."""
    body: bytes
    words: tuple[str, ...]
    """All are in the message, whatever their case."""
    field: str | None = None
    status: int = 400
    content_type: str | None = JSON

    @property
    def path(self) -> str:
        return self.protocol.format(model=self.model)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int, *, colour: int = 0) -> bytes:
    """A PNG that claims a size and holds next to nothing: what a decompression bomb starts with."""
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0" * 1000))


def png(size: tuple[int, int] = (8, 8)) -> bytes:
    file = io.BytesIO()
    Image.frombytes("L", size, random.Random(0).randbytes(size[0] * size[1])).save(file, "PNG")
    return file.getvalue()


def form(*parts: tuple[str, str | None, bytes], boundary: str = "edge") -> tuple[bytes, str]:
    """A multipart body and its content type; parts are (field, filename, content)."""
    body = b""
    for name, filename, content in parts:
        file = f'; filename="{filename}"' if filename is not None else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        body += head.encode() + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


ROW = [[[[0.0] * 8] * 8]]
FLAT = [0.0] * 64
HOUSE = {"rooms": 3, "area": 80.5, "city": "Paris", "garden": True}
LEFT = {"name": "left", "shape": [1, 3], "datatype": "UINT8", "data": [1, 2, 3]}
RIGHT = {"name": "right", "shape": [1], "datatype": "FP64", "data": [0.5]}
DEEP = b"[" * 1000 + b"]" * 1000
OWN_KEYS = [{f"k{row}": 1} for row in range(20_000)]
EACH_ITS_OWN = orjson.dumps({"dataframe_records": OWN_KEYS})
MANY = [str(column) for column in range(50_000)]


def digits(**changed: Any) -> bytes:
    tensor = {"name": "input", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": FLAT} | changed
    return orjson.dumps({"inputs": [{key: value for key, value in tensor.items() if value is not ...}]})


def pair(*tensors: dict[str, Any], **others: Any) -> bytes:
    return orjson.dumps({"inputs": tensors or [LEFT, RIGHT]} | others)


def houses(**columns: tuple[str, Any]) -> bytes:
    """One house; columns by name as (datatype, value)."""
    given = {"rooms": ("INT32", 3), "area": ("FP64", 80.5), "city": ("BYTES", "Paris"), "garden": ("BOOL", True)}
    return orjson.dumps(
        {
            "inputs": [
                {"name": name, "shape": [1], "datatype": datatype, "data": [value]}
                for name, (datatype, value) in (given | columns).items()
            ]
        }
    )


def records(key: str, **changed: Any) -> bytes:
    row = {name: value for name, value in (HOUSE | changed).items() if value is not ...}
    return orjson.dumps({key: [row]})


def split(columns: Any, data: Any, **others: Any) -> bytes:
    return orjson.dumps({"dataframe_split": {"columns": columns, "data": data} | others})


NOT_JSON = [
    BadInput(f"{name} over {protocol}", protocol, "digits", body, words)
    for protocol in (OIP, INVOCATIONS, PREDICT)
    for name, body, words in [
        ("empty body", b"", ("empty",)),
        ("blank body", b"  \n", ("empty",)),
        ("cut-off JSON", b'{"inputs": [', ("not JSON", "line 1 column")),
        ("trailing comma on line 2", b'{"inputs":\n [1,]}', ("not JSON", "line 2 column")),
        ("NaN literal", b'{"inputs": [[NaN]]}', ("not JSON", "no NaN")),
        ("Infinity literal", b'{"inputs": [[1.0, Infinity]]}', ("not JSON", "no NaN or Infinity")),
        ("negative Infinity literal", b'{"inputs": [[1.0, -Infinity]]}', ("not JSON", "no NaN or Infinity")),
        ("number over every float", b'{"inputs": [[1e400]]}', ("not JSON", "infinity")),
        ("two documents", b"{}{}", ("not JSON", "column 3")),
        ("not UTF-8", b'{"inputs": "\xff\xfe"}', ("UTF-8", "byte 12")),
        ("UTF-16", '{"inputs": []}'.encode("utf-16"), ("UTF-8", "byte 0")),
        ("lone surrogate", b'{"inputs": "\\ud800"}', ("not JSON", "surrogate")),
        ("nested 5000 deep", b'{"inputs":' + b"[" * 5000 + b"]" * 5000 + b"}", ("not JSON", "depth")),
        ("nested 1020 deep", b'{"inputs":' + b"[" * 1020 + b"1" + b"]" * 1020 + b"}", ("64 levels",)),
        ("nested 65 deep", b'{"inputs":' + b"[" * 64 + b"1" + b"]" * 64 + b"}", ("64 levels",)),
        ("nested 64 deep", b'{"inputs":' + b"[" * 63 + b"1" + b"]" * 63 + b"}", ()),
        ("objects 1000 deep", b'{"a":' * 1000 + b"1" + b"}" * 1000, ("64 levels",)),
        ("brackets in strings", b'["]]]]\\\\",' * 300 + b'"\\"]"' + b"]" * 300, ("64 levels",)),
        ("a number", b"17", ("number",)),
        ("null", b"null", ("null",)),
        ("a string", b'"hello"', ("string",)),
        ("an empty object", b"{}", ()),
    ]
]

OVER_OIP = [
    BadInput(name, OIP, model, body, words, field)
    for name, model, body, words, field in [
        ("no inputs", "digits", b'{"id": "1"}', ("inputs must be an array",), "inputs"),
        ("empty inputs", "digits", b'{"inputs": []}', ("inputs must be an array",), "inputs"),
        ("inputs is an object", "digits", b'{"inputs": {}}', ("inputs must be an array",), "inputs"),
        ("tensor is a number", "digits", b'{"inputs": [1]}', ("inputs[0]", "number"), "inputs[0]"),
        ("another protocol", "digits", b'{"instances": [[1]]}', ("instances", "predict"), None),
        ("unknown tensor key", "digits", digits(values=[1]), ("'values'",), "inputs[0]"),
        ("name missing", "pair", pair({"shape": [1]}), ("name must be a string",), "inputs[0].name"),
        ("name is a number", "pair", pair(LEFT | {"name": 3}), ("name must be a string",), "inputs[0].name"),
        ("missing input", "pair", pair(LEFT), ("missing 'right'",), "inputs"),
        ("extra input", "pair", pair(LEFT, RIGHT, RIGHT | {"name": "up"}), ('"up"', "'left'"), "inputs[2].name"),
        ("duplicate input", "pair", pair(LEFT, RIGHT, LEFT), ("left", "twice"), "inputs[2].name"),
        ("two tensors for one", "digits", pair(LEFT, RIGHT), ('"left"',), "inputs[0].name"),
        ("datatype missing", "digits", digits(datatype=...), ("FP32", "none"), "inputs[0].datatype"),
        ("datatype unknown", "digits", digits(datatype="FLOAT"), ("FP32", "FLOAT"), "inputs[0].datatype"),
        ("datatype of another width", "digits", digits(datatype="FP64"), ("FP32", "FP64"), "inputs[0].datatype"),
        ("datatype is nested", "digits", digits(datatype=0).replace(b":0,", b":" + DEEP + b","), ("64 levels",), None),
        ("datatype is a number", "digits", digits(datatype=32), ("FP32", "32"), "inputs[0].datatype"),
        ("shape missing", "digits", digits(shape=...), ("shape", "none"), "inputs[0].shape"),
        ("shape is a number", "digits", digits(shape=64), ("shape", "64"), "inputs[0].shape"),
        ("shape is empty", "digits", digits(shape=[], data=[1]), ("shape",), "inputs[0].shape"),
        ("negative size", "digits", digits(shape=[-1, 1, 8, 8]), ("shape", "-1"), "inputs[0].shape"),
        ("two negative sizes", "digits", digits(shape=[1, 1, -8, -8]), ("shape", "-8"), "inputs[0].shape"),
        ("fractional size", "digits", digits(shape=[1.0, 1, 8, 8]), ("shape", "1.0"), "inputs[0].shape"),
        ("boolean size", "digits", digits(shape=[True, 1, 8, 8]), ("shape", "true"), "inputs[0].shape"),
        ("huge shape", "digits", digits(shape=[10**12, 10**12]), ("10" + "0" * 23, "64"), "inputs[0].data"),
        ("300 huge axes", "digits", digits(shape=[2**63 - 1] * 300), ("32 axes", "300"), "inputs[0].shape"),
        ("32 huge axes", "digits", digits(shape=[2**63 - 1] * 32), ("elements", "64"), "inputs[0].data"),
        ("huge shape, zero", "digits", digits(shape=[0, 10**18, 8, 8], data=[]), ("no elements",), "inputs[0].data"),
        ("no rows", "digits", digits(shape=[0, 1, 8, 8], data=[]), ("at least one row",), "inputs[0].data"),
        ("wrong rank", "digits", digits(shape=[1, 64]), ("4 dimensions", "got 2"), "inputs[0].shape"),
        ("wrong shape", "digits", digits(shape=[1, 8, 1, 8]), ("[-1, 1, 8, 8]", "[1,8,1,8]"), "inputs[0].data"),
        ("too few elements", "digits", digits(data=FLAT[:63]), ("64 elements", "63"), "inputs[0].data"),
        ("too many elements", "digits", digits(data=[*FLAT, 1.0]), ("64 elements", "65"), "inputs[0].data"),
        ("shape against nested data", "digits", digits(data=[[0.0] * 64]), ("[1,1,8,8]", "[1, 64]"), "inputs[0].data"),
        ("ragged data", "digits", digits(data=[[1.0], [1.0, 2.0]]), ("ragged", "level 1"), "inputs[0].data"),
        ("mixed nesting", "digits", digits(data=[[1.0], 2.0]), ("ragged",), "inputs[0].data"),
        ("data missing", "digits", digits(data=...), ("data", "none"), "inputs[0].data"),
        ("data is a string", "digits", digits(data="AAAA"), ("data", "string"), "inputs[0].data"),
        ("a string among numbers", "digits", digits(data=[*FLAT[:63], "1"]), ("[0][0][7][7]", '"1"'), "inputs[0].data"),
        ("null among numbers", "digits", digits(data=[None, *FLAT[:63]]), ("[0][0][0][0]", "null"), "inputs[0].data"),
        ("true among numbers", "digits", digits(data=[True, *FLAT[:63]]), ("boolean",), "inputs[0].data"),
        ("an array among numbers", "digits", digits(data=[*FLAT[:63], [1]]), ("array",), "inputs[0].data"),
        ("an object among numbers", "digits", digits(data=[*FLAT[:63], {}]), ("object",), "inputs[0].data"),
        ("over float32", "digits", digits(data=[1e39, *FLAT[:63]]), ("range", "float32"), "inputs[0].data"),
        ("300 as uint8", "pair", pair(LEFT | {"data": [1, 2, 300]}, RIGHT), ("300", "0 to 255"), "inputs[0].data"),
        ("-1 as uint8", "pair", pair(LEFT | {"data": [1, -1, 3]}, RIGHT), ("-1", "0 to 255"), "inputs[0].data"),
        ("2.5 as uint8", "pair", pair(LEFT | {"data": [1, 2.5, 3]}, RIGHT), ("2.5", "whole"), "inputs[0].data"),
        ("null as uint8", "pair", pair(LEFT | {"data": [1, None, 3]}, RIGHT), ("null",), "inputs[0].data"),
        ("different rows", "pair", pair(LEFT, RIGHT | {"shape": [2], "data": [1, 2]}), ("rows", "right"), "inputs"),
        ("number as text", "houses", houses(city=("BYTES", 5)), ("'city'", "strings"), "inputs[2].data"),
        ("text as boolean", "houses", houses(garden=("BOOL", "yes")), ("'garden'", "true"), "inputs[3].data"),
        ("1 as boolean", "houses", houses(garden=("BOOL", 1)), ("'garden'", "true"), "inputs[3].data"),
        ("no date", "houses", houses(sold=("BYTES", "soon")), ("'sold'", "ISO 8601"), "inputs[4].data"),
        ("over int32", "houses", houses(rooms=("INT32", 2**31)), ("'rooms'", "range"), "inputs[0].data"),
        ("over int64", "houses", houses(rooms=("INT32", 2**63)), ("'rooms'", "range"), "inputs[0].data"),
        (
            "a column of two axes",
            "pair",
            pair(LEFT, RIGHT | {"shape": [1, 2], "data": [1, 2]}),
            ("1 dimension", "got 2"),
            "inputs[1].shape",
        ),
        ("unknown output", "pair", pair(outputs=[{"name": "x"}]), ('"x"', "'sum'"), "outputs[0].name"),
        ("outputs of no name", "pair", pair(outputs=[{"name": [["sum"]]}]), ("sum",), "outputs[0].name"),
        ("output twice", "pair", pair(outputs=[{"name": "sum"}] * 2), ("twice",), "outputs[1].name"),
        ("outputs is a string", "pair", pair(outputs="sum"), ("outputs", "array"), "outputs"),
        ("output is a string", "pair", pair(outputs=["sum"]), ("outputs[0]",), "outputs[0]"),
        ("id is a number", "pair", pair(id=7), ("id must be a string",), "id"),
        ("unknown parameter", "pair", pair(parameters={"beam": 3}), ("beam", "no parameters"), "parameters.beam"),
        ("parameters is an array", "pair", pair(parameters=[1]), ("parameters", "array"), "parameters"),
        (
            "binary extension",
            "pair",
            pair(LEFT | {"parameters": {"binary_data_size": 3}}, RIGHT),
            ("binary", "JSON"),
            "inputs[0].parameters.binary_data_size",
        ),
    ]
]

OVER_INVOCATIONS = [
    BadInput(name, INVOCATIONS, model, body, words, field)
    for name, model, body, words, field in [
        ("a bare array", "digits", b"[[1, 2]]", ("dataframe_split", "array"), None),
        ("two formats", "digits", b'{"instances": [], "inputs": []}', ("exactly one",), None),
        ("unknown key", "digits", b'{"instances": [[1]], "signature_name": "x"}', ("signature_name",), None),
        ("only params", "digits", b'{"params": {}}', ("exactly one",), None),
        ("instances is a number", "digits", b'{"instances": 5}', ("instances", "array"), "instances"),
        ("no rows", "digits", b'{"instances": []}', ("dimensions",), "instances"),
        ("empty rows", "digits", b'{"instances": [[[[]]]]}', ("no elements",), "instances"),
        ("one row without batch", "digits", orjson.dumps({"instances": ROW[0]}), ("4 dimensions",), "instances"),
        ("wrong shape", "digits", orjson.dumps({"inputs": [[[[0.0]]]]}), ("[-1, 1, 8, 8]",), "inputs"),
        ("object for a tensor", "digits", b'{"inputs": {"a": [1]}}', ("unnamed tensor",), "inputs"),
        ("records for a tensor", "digits", b'{"instances": [{"a": 1}]}', (), None),
        ("missing input", "pair", b'{"inputs": {"left": [[1, 2, 3]]}}', ("missing 'right'",), "inputs"),
        ("extra input", "pair", b'{"inputs": {"left": [], "right": [], "up": []}}', ("unknown 'up'",), "inputs"),
        ("array for two inputs", "pair", b'{"inputs": [[1, 2, 3]]}', ("have names", "'left'"), "inputs"),
        ("300 as uint8", "pair", b'{"inputs": {"left": [[1, 2, 300]], "right": [1]}}', ("300",), "inputs.left"),
        ("rows differ", "pair", b'{"inputs": {"left": [[1, 2, 3]], "right": [1, 2]}}', ("rows",), "inputs"),
        ("a record lacks an input", "pair", b'{"instances": [{"left": [1, 2, 3]}]}', ("right",), "instances[0]"),
        ("a record is a number", "pair", b'{"instances": [{"left": [1, 2, 3], "right": 1}, 4]}', (), "instances[1]"),
        ("rows for columns", "houses", b'{"instances": [[3, 80.5]]}', ("have names", "'rooms'"), "instances"),
        (
            "missing column",
            "houses",
            records("dataframe_records", area=...),
            ("missing 'area'",),
            "dataframe_records[0]",
        ),
        ("extra column", "houses", records("dataframe_records", pool=1), ("unknown 'pool'",), "dataframe_records[0]"),
        ("text as number", "houses", records("inputs", area="80"), ("'area'", '"80"'), "inputs.area"),
        ("2.5 as integer", "houses", records("dataframe_records", rooms=2.5), ("2.5",), "dataframe_records.rooms"),
        (
            "null as integer",
            "houses",
            records("dataframe_records", rooms=None),
            ("missing",),
            "dataframe_records.rooms",
        ),
        ("null as boolean", "houses", records("dataframe_records", garden=None), ("missing",), None),
        ("not base64", "houses", records("dataframe_records", photo="§"), ("base64",), "dataframe_records.photo"),
        ("year 9999", "houses", records("dataframe_records", sold="9999-01-01"), ("range",), "dataframe_records.sold"),
        ("a key for each record", "houses", EACH_ITS_OWN, ("missing", "unknown 'k0'"), "dataframe_records[0]"),
        ("a key for each record, unnamed", "digits", EACH_ITS_OWN, ("'k0'", "'k1'"), "dataframe_records[1]"),
        ("records is an object", "houses", b'{"dataframe_records": {"a": [1]}}', ("array",), "dataframe_records"),
        ("no records", "houses", b'{"dataframe_records": []}', (), None),
        ("split is an array", "houses", b'{"dataframe_split": [[1]]}', ("columns",), "dataframe_split"),
        ("split without data", "houses", b'{"dataframe_split": {"columns": []}}', ("data",), "dataframe_split"),
        ("split with more", "houses", split([], [], dtype={}), ("columns", "data"), "dataframe_split"),
        ("split of objects", "houses", split(["rooms"], [{}]), ("array for each row",), "dataframe_split.data"),
        ("split columns twice", "houses", split(["a", "a"], [[1, 2]]), ("'a'", "twice"), "dataframe_split.columns"),
        ("many columns twice", "houses", split(MANY * 2, []), ("'0'", "twice"), "dataframe_split.columns"),
        ("split columns of null", "houses", split([None], [[1]]), ("column names",), "dataframe_split.columns"),
        ("split row too short", "houses", split(["a", "b"], [[1, 2], [1]]), ("2 values",), "dataframe_split.data[1]"),
        ("split without columns", "houses", split(None, [[1, 2]]), ("missing 'rooms'",), "dataframe_split.columns"),
        ("split without rows", "houses", split(list(HOUSE), []), ("rows",), "dataframe_split.data"),
        (
            "unknown parameter",
            "houses",
            orjson.dumps({"dataframe_records": [HOUSE], "params": {"rate": 1}}),
            ("rate", "'discount'"),
            "params.rate",
        ),
        (
            "parameter of wrong type",
            "houses",
            orjson.dumps({"dataframe_records": [HOUSE], "params": {"discount": "much"}}),
            ("discount", "much"),
            "params.discount",
        ),
        (
            "single value for a list parameter",
            "houses",
            orjson.dumps({"dataframe_records": [HOUSE], "params": {"cities": "Rome"}}),
            ("cities", "array"),
            "params.cities",
        ),
        (
            "params is an array",
            "houses",
            orjson.dumps({"dataframe_records": [HOUSE], "params": []}),
            ("params", "array"),
            "params",
        ),
    ]
] + [
    BadInput(name, INVOCATIONS, "houses", body, words, field, status, content_type)
    for name, body, words, field, status, content_type in [
        ("XML", b"<a/>", ("application/json", "text/csv"), "content-type", 415, "application/xml"),
        ("Latin-1", b"{}", ("UTF-8",), "content-type", 415, "application/json; charset=latin-1"),
        ("content type parameter", b"{}", ("format",), "content-type", 415, "application/json; format=pandas-split"),
        ("an image", png(), ("text/csv",), "content-type", 415, "image/png"),
        ("empty CSV", b"", ("empty",), None, 400, "text/csv"),
        ("CSV header only", b"rooms,area,city,garden\n", ("rows",), "csv.data", 400, "text/csv"),
        ("CSV short line", b"rooms,area\n1,2\n3\n", ("line 3",), None, 400, "text/csv"),
        ("CSV open quote", b'rooms\n"1', ("not CSV",), None, 400, "text/csv"),
        ("CSV not UTF-8", b"rooms\n\xff", ("UTF-8",), None, 400, "text/csv"),
        ("CSV missing column", b"rooms\n1\n", ("missing 'area'",), "csv.columns", 400, "text/csv"),
        ("CSV text as number", b"rooms,area,city,garden\nx,1,P,true\n", ("'x'", '"x"')[1:], None, 400, "text/csv"),
        ("CSV overflow", b"rooms,area,city,garden\n1,1e999,P,true\n", ("1e999",), None, 400, "text/csv"),
        ("CSV underscore", b"rooms,area,city,garden\n1_000,1,P,true\n", ("1_000",), "csv.data.rooms", 400, "text/csv"),
        ("CSV float underscore", b"rooms,area,city,garden\n1,1_0.5,P,true\n", ("1_0.5",), None, 400, "text/csv"),
        ("CSV Arabic digit", "rooms,area,city,garden\n٣,1,P,true\n".encode(), ("rooms",), None, 400, "text/csv"),
        ("CSV infinity", b"rooms,area,city,garden\n1,infinity,P,true\n", ("infinity",), None, 400, "text/csv"),
        ("CSV -inf", b"rooms,area,city,garden\n1,-inf,P,true\n", ("-inf",), None, 400, "text/csv"),
        ("CSV huge int", b"rooms,area,city,garden\n" + b"9" * 5000 + b",1,P,true\n", ("rooms",), None, 400, "text/csv"),
    ]
]

EMPTY_FILE, TYPE = form(("file", "a.png", b""))
OVER_PREDICT = [
    BadInput(name, PREDICT, model, body, words, field)
    for name, model, body, words, field in [
        ("wrong rank", "digits", b"[1, 2]", ("4 dimensions",), "body"),
        ("wrong shape", "digits", b"[[[1, 2]]]", ("[-1, 1, 8, 8]",), "body"),
        ("beside instances", "digits", b'{"instances": [], "inputs": []}', ("'inputs'",), None),
        ("unknown key", "digits", b'{"data": [1]}', ("unnamed tensor",), "body"),
        ("empty array", "digits", b"[]", (), "body"),
        ("missing input", "pair", b'{"left": [1, 2, 3]}', ("missing 'right'",), "body"),
        ("missing column", "houses", b'{"rooms": 3}', ("missing 'area'", "'city'"), "body"),
        ("extra column", "houses", orjson.dumps(HOUSE | {"pool": 1}), ("unknown 'pool'",), "body"),
        ("NaN text as number", "houses", orjson.dumps(HOUSE | {"area": "NaN"}), ("area", "NaN"), "body.area"),
        ("a key for each row", "pair", orjson.dumps(OWN_KEYS), ("missing", "'k0'"), "body[0]"),
        ("a record short of a column", "houses", orjson.dumps([HOUSE, {"rooms": 1}]), ("area",), "body[1]"),
        (
            "params of a model without",
            "pair",
            b'{"instances": [{"left": [1,2,3], "right": 1}], "params": {"a": 1}}',
            ("no parameters",),
            "params.a",
        ),
    ]
] + [
    BadInput(name, PREDICT, model, body, words, field, status, content_type)
    for name, model, body, words, field, status, content_type in [
        ("image for a model without", "pair", png(), ("spec.transform.input.image",), "content-type", 415, "image/png"),
        ("XML", "digits", b"<a/>", ("application/json", "multipart/form-data"), "content-type", 415, "text/xml"),
        ("urlencoded form", "digits", b"a=1", ("multipart",), "content-type", 415, "application/x-www-form-urlencoded"),
        ("empty image", "digits", b"", ("empty",), "body", 400, "image/png"),
        ("text as image", "digits", b"hello", ("not an image",), "body", 400, "image/png"),
        ("SVG", "digits", b"<svg/>", ("not an image", "PNG"), "body", 400, "image/svg+xml"),
        ("truncated image", "digits", png((64, 64))[:1500], ("damaged",), "body", 400, "image/png"),
        ("only a header", "digits", png_header(8, 8)[:40], ("not an image",), "body", 400, "image/png"),
        ("bomb", "digits", png_header(20_000, 20_000), ("too large",), "body", 413, "image/png"),
        ("bomb just over", "digits", png_header(8001, 8000), ("8001 x 8000",), "body", 413, "image/png"),
        ("enormous bomb", "digits", png_header(2**31 - 1, 2**31 - 1), (), "body", 413, "image/png"),
        ("no boundary", "digits", b"", ("boundary",), None, 400, "multipart/form-data"),
        ("not the boundary", "digits", EMPTY_FILE, ("malformed",), None, 400, "multipart/form-data; boundary=other"),
        ("cut-off form", "digits", form(("f", "a.png", png()))[0][:-12], ("incomplete",), None, 400, TYPE),
        ("empty form body", "digits", b"", ("incomplete",), None, 400, TYPE),
        ("form without files", "digits", form()[0], ("no file",), None, 400, TYPE),
        ("empty file", "digits", EMPTY_FILE, ("'a.png'", "empty"), "a.png", 400, TYPE),
        ("text field", "digits", form(("note", None, b"hi"))[0], ("'note'",), "note", 400, TYPE),
        (
            "unknown parameter",
            "digits",
            form(("params", None, b'{"a":1}'))[0],
            ("no parameters",),
            "params.a",
            400,
            TYPE,
        ),
        ("params not JSON", "digits", form(("params", None, b"{"))[0], ("not JSON",), None, 400, TYPE),
        (
            "second file damaged",
            "digits",
            form(("f", "a.png", png()), ("f", "b.png", b"x"))[0],
            ("b.png",),
            "b.png",
            400,
            TYPE,
        ),
        ("too many parts", "digits", form(*[("f", "a.png", b"x")] * 300)[0], ("256",), "body", 413, TYPE),
    ]
]

BAD_INPUTS = NOT_JSON + OVER_OIP + OVER_INVOCATIONS + OVER_PREDICT
