"""MLflow's scoring protocol: `POST /invocations`.

JSON holds exactly one of `dataframe_split`, `dataframe_records`, `instances` and `inputs`, and optional `params`;
CSV holds a header and rows. Stricter than MLflow's own server, which truncates 2.5 to an integer, reads "1" as a
number, and drops unknown columns and parameters: here these are errors. Missing values are null, never NaN.
"""

from __future__ import annotations

import csv
import io
import math
from typing import Any

import numpy as np

from rayfleet_serving.protocol import expected as expectations
from rayfleet_serving.protocol import jsontext, outputs, tables
from rayfleet_serving.protocol.errors import invalid, malformed, unsupported
from rayfleet_serving.protocol.expected import Expected
from rayfleet_serving.protocol.jsontext import kind, show
from rayfleet_serving.protocol.message import InferenceRequest, InferenceResult
from rayfleet_serving.signature import Signature

FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")
CSV_MISSING = frozenset(
    [
        "#N/A",
        "#N/A N/A",
        "#NA",
        "-1.#IND",
        "-1.#QNAN",
        "-NaN",
        "-nan",
        "1.#IND",
        "1.#QNAN",
        "<NA>",
        "N/A",
        "NA",
        "NULL",
        "NaN",
        "None",
        "n/a",
        "nan",
        "null",
        "",
    ]
)
"""What `pandas.read_csv` takes for a missing value."""


def decode(body: bytes, content_type: str | None, signature: Signature) -> InferenceRequest:
    """A scoring request; JSON where no content type is given.

    Raises:
        RequestError: 400; 415 for other content types, character sets or content type parameters.
    """
    expected = expectations.of(signature)
    media = _media(content_type)
    if media == "text/csv":
        return _csv(body, expected)
    document = jsontext.parse(body)
    if type(document) is not dict:
        raise invalid(f"Expected an object with one of {', '.join(FORMATS)}, got {kind(document)}.", None)
    given = [name for name in FORMATS if name in document]
    unknown = [name for name in document if name not in FORMATS and name != "params"]
    if len(given) != 1 or unknown:
        found = expectations.listed(list(document))
        raise invalid(f"Expected exactly one of {', '.join(FORMATS)}, and optional params; got {found}.", None)
    request = _data(given[0], document[given[0]], expected)
    if "params" in document:
        request.params = expected.parameters(document["params"], "params")
    return request


def encode(result: InferenceResult) -> bytes:
    """`{"predictions": …}` as MLflow's own server shapes it: an array or a list as it is, named outputs as an object of
    arrays, a DataFrame as records. Two differences: NaN is null, which MLflow writes as the non-JSON `NaN`; a float32
    is written with the digits it has, not with those of its double."""
    return outputs.dumps({"predictions": predictions(result)})


def predictions(result: InferenceResult) -> Any:
    """What `encode` puts under "predictions", ready for orjson."""
    if result.form == "frame":
        columns = {name: _cells(array) for name, array in result.outputs.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if result.form == "tensors":
        return {name: _array(array) for name, array in result.outputs.items()}
    (array,) = result.outputs.values()
    return _array(array)


def _media(content_type: str | None) -> str:
    """The media type without its parameters. Raises `RequestError` 415."""
    media, *parameters = [part.strip() for part in (content_type or "application/json").split(";")]
    media = media.lower()
    if media not in ("application/json", "text/csv"):
        raise unsupported(f"/invocations takes application/json or text/csv, not {media[:80]!r}.")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() != "charset" or value.strip("\"' ").lower() not in ("utf-8", "utf8"):
            raise unsupported(f"{media} is read as UTF-8, without other parameters; got {parameter[:80]!r}.")
    return media


def _data(name: str, value: Any, expected: Expected) -> InferenceRequest:
    if name == "dataframe_records":
        return tables.from_records(value, expected, name, frame=True)
    if name == "dataframe_split":
        if type(value) is not dict or "data" not in value or value.keys() - {"columns", "data", "index"}:
            raise invalid(f"Expected an object with columns, data and optional index, got {show(value)}.", name)
        return tables.from_table(value.get("columns"), value["data"], expected, name)
    return tables.from_values(value, expected, name)


def _csv(body: bytes, expected: Expected) -> InferenceRequest:
    """A header and rows, as `DataFrame.to_csv` writes them, with or without its unnamed index column."""
    try:
        lines = list(csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True))
    except UnicodeDecodeError as error:
        raise malformed(f"The body is not UTF-8: {error.reason} at byte {error.start}.") from None
    except csv.Error as error:
        raise malformed(f"The body is not CSV: {error}.") from None
    lines = [line for line in lines if line]
    if not lines:
        raise malformed("The body is empty; CSV with a header belongs there.")
    header, *rows = lines
    indexed = header[0] == ""
    names = header[1:] if indexed else header
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise malformed(f"CSV line {number} has {len(row)} fields, the header has {len(header)}.")
    table = [[_cell(text) for text in (row[1:] if indexed else row)] for row in rows]
    if expected.form != "any":
        fields = [expected.inputs.get(name, expected.only) for name in names]
        if expected.unnamed and len(names) == len(expected.inputs):
            fields = list(expected.inputs.values())
        table = [
            [_typed(value, field.dtype.name if field else "str") for value, field in zip(row, fields, strict=True)]
            for row in table
        ]
    else:
        table = [list(row) for row in zip(*map(_inferred_column, zip(*table, strict=True)), strict=True)]
    return tables.from_table(names, table, expected, "csv")


def _cell(text: str) -> str | None:
    return None if text in CSV_MISSING else text


def _typed(text: str | None, dtype: str) -> Any:
    """A CSV field as the JSON value its column takes; as the text itself where it is none, which is then refused."""
    if text is None or dtype in ("str", "bytes") or dtype.startswith("datetime64"):
        return text
    if dtype == "bool":
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        if dtype == "object":
            return jsontext.loads(text)
        if "_" in text or not text.isascii():
            return text  # 1_000 and other scripts' digits are numbers to Python alone
        number = float(text)
        if not math.isfinite(number):
            return text
        return int(text) if text.strip().lstrip("+-").isdecimal() else number
    except ValueError:
        return text
    except jsontext.TooDeepError as error:
        raise invalid(f"The object {show(text)} is {error}.", "csv.data") from None


def _inferred_column(column: tuple[str | None, ...]) -> list[Any]:
    """All numbers, all booleans, or text, as pandas infers."""
    for dtype, kinds in (("float64", {int, float}), ("bool", {bool})):
        values = [_typed(text, dtype) for text in column]
        if {type(value) for value in values if value is not None} <= kinds:
            return values
    return list(column)


def _cells(array: outputs.Array) -> list[Any]:
    """A DataFrame's column as JSON values."""
    return outputs.instants(array) if array.dtype.kind == "M" else list(array) if array.ndim == 1 else array.tolist()


def _array(array: outputs.Array) -> Any:
    if array.dtype.kind == "M":
        return array.astype("datetime64[ns]").astype(np.int64)  # as numpy's own tolist
    return outputs.jsonable(array)
