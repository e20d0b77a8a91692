"""JSON rows, records, columns and tables as requests: what `/invocations` and `/predict` have in common.

With a signature, its form decides what the same JSON means: `[[1, 2], [3, 4]]` is a tensor of two rows for one
unnamed tensor, and refused where columns have names. Without one, the JSON decides: plain arrays are one tensor,
objects are named tensors, DataFrames are frames.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rayfleet_serving.protocol import dtypes
from rayfleet_serving.protocol.dtypes import Array
from rayfleet_serving.protocol.errors import invalid
from rayfleet_serving.protocol.expected import Expected, convert, flatten, listed, same_rows
from rayfleet_serving.protocol.jsontext import kind, show
from rayfleet_serving.protocol.message import InferenceRequest
from rayfleet_serving.signature import UNNAMED_INPUT, InputForm


def from_values(value: Any, expected: Expected, where: str, *, single: bool = False) -> InferenceRequest:
    """Rows as nested arrays, as an array of objects by input name, or as an object of arrays by input name.

    Args:
        value: parsed JSON.
        expected: of the model's signature.
        where: JSON path of `value`.
        single: whether one row may come without the batch axis.

    Raises:
        RequestError: 400.
    """
    if type(value) is dict:
        return from_columns(value, expected, where, single=single)
    if type(value) is not list:
        raise invalid(f"{where}: expected {_wanted(expected)}, got {kind(value)} ({show(value)}).", where)
    if value and type(value[0]) is dict and not _takes_objects(expected):
        return from_records(value, expected, where)
    if expected.form == "any":
        return _request({UNNAMED_INPUT: _inferred(value, UNNAMED_INPUT, where, missing=False)}, "tensor", where)
    if expected.only is not None:
        array = expected.only.rows(value, where, single=single)
        return _request({expected.only.name: array}, expected.form, where)
    if expected.form == "frame" and expected.unnamed:
        return from_table(None, value, expected, where)
    raise invalid(f"{where}: this model's inputs have names; expected {_wanted(expected)}.", where)


def from_records(records: Any, expected: Expected, where: str, *, frame: bool = False) -> InferenceRequest:
    """An array with one object by input name for each row; `frame` for what comes as a DataFrame.

    Only inputs of the signature may be left out of some records. Every other record has the names of the first: the
    table of all rows by all names is then never larger than the request, or the signature, times the rows.
    """
    if type(records) is not list:
        raise invalid(f"Expected an array of objects, got {kind(records)}.", where)
    for row, record in enumerate(records):
        if type(record) is not dict:
            raise invalid(f"Expected an object by input name in every row, got {kind(record)}.", f"{where}[{row}]")
    for row, record in enumerate(records):
        if row and record.keys() == records[0].keys():
            continue
        if expected.form in ("tensors", "frame"):
            expected.check_names(record, f"{where}[{row}]")
        elif row:
            raise invalid(
                f"Every row must have the names of the first, {listed(list(records[0]))}; "
                f"row {row} has {listed(list(record))}.",
                f"{where}[{row}]",
            )
    names = list(dict.fromkeys(name for record in records for name in record))
    if expected.form == "tensor":
        return _matrix(names, [[record[name] for name in names] for record in records], expected, where)
    return _columns({name: [record.get(name) for record in records] for name in names}, expected, where, frame=frame)


def from_columns(columns: dict[str, Any], expected: Expected, where: str, *, single: bool = False) -> InferenceRequest:
    """An object of arrays by input name. Columns may also be one record: a single value for each name."""
    if expected.form == "tensor":
        raise invalid(f"This model takes one unnamed tensor: expected {_wanted(expected)}, got an object.", where)
    if expected.form != "any":
        expected.check_names(columns, where)
    if expected.form == "frame" and _is_record(columns, expected):
        columns = {name: [value] for name, value in columns.items()}
    return _columns(columns, expected, where, single=single)


def from_table(columns: Any, rows: Any, expected: Expected, where: str) -> InferenceRequest:
    """A DataFrame split into column names and rows. Without names, columns are numbered, as pandas does."""
    if type(rows) is not list or not all(type(row) is list for row in rows):
        raise invalid(f"Expected an array with one array for each row, got {show(rows)}.", f"{where}.data")
    if columns is None:
        width = len(rows[0]) if rows else 0
        names = expected.names if expected.unnamed and len(expected.names) == width else [*map(str, range(width))]
    elif type(columns) is not list or not all(type(name) in (str, int) for name in columns):
        raise invalid(f"Expected an array of column names, got {show(columns)}.", f"{where}.columns")
    else:
        names = [str(name) for name in columns]
        if len(set(names)) < len(names):
            twice = [name for name, times in Counter(names).items() if times > 1]
            raise invalid(f"Columns come twice: {listed(twice)}.", f"{where}.columns")
        if expected.form == "frame" and expected.unnamed and len(names) == len(expected.names):
            names = expected.names
    for row, values in enumerate(rows):
        if len(values) != len(names):
            raise invalid(
                f"Expected {len(names)} values, one for each column, got {len(values)}.", f"{where}.data[{row}]"
            )
    if expected.form == "tensor":
        return _matrix(names, rows, expected, f"{where}.data")
    if expected.form != "any":
        expected.check_names(names, f"{where}.columns")
    data = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)) if rows else {}
    return _columns(data, expected, f"{where}.data", frame=True)


def _columns(
    columns: dict[str, Any], expected: Expected, where: str, *, single: bool = False, frame: bool = False
) -> InferenceRequest:
    """Arrays by name in the signature's order, whose names have been checked."""
    if expected.form == "any":
        inferred = {name: _inferred(values, name, where, missing=frame) for name, values in columns.items()}
        return _request(inferred, "frame" if frame else "tensors", where)
    inputs: dict[str, Array] = {}
    for name, field in expected.inputs.items():
        if name in columns:
            inputs[name] = field.rows(columns[name], f"{where}.{name}", single=single, flattened=frame)
    return _request(inputs, expected.form, where)


def _matrix(names: Sequence[str], rows: list[list[Any]], expected: Expected, where: str) -> InferenceRequest:
    """A DataFrame for one unnamed tensor: its columns are the last axis, or one column holds a row's elements."""
    (field,) = expected.inputs.values()
    values: list[Any] = rows
    if len(names) == 1 and (len(field.shape) == 1 or any(type(row[0]) is list for row in rows)):
        values = [row[0] for row in rows]
    return _request({field.name: field.rows(values, where, flattened=True)}, "tensor", where)


def _inferred(value: Any, name: str, where: str, *, missing: bool) -> Array:
    """An array for a model without a signature."""
    label = f"Input {name[:80]!r}"
    if type(value) is not list:
        raise invalid(f"{label}: expected an array with the batch first, got {kind(value)} ({show(value)}).", where)
    if missing:
        return convert(value, (len(value),), dtypes.INFERRED, True, label, where)
    flat, shape = flatten(value, label, where)
    if 0 in shape:
        raise invalid(f"{label}: shape {list(shape)} holds no elements; send at least one row.", where)
    return convert(flat, shape, dtypes.INFERRED, False, label, where)


def _request(inputs: dict[str, Array], form: InputForm, where: str) -> InferenceRequest:
    return InferenceRequest(inputs, same_rows(inputs, where), form)


def _is_record(columns: dict[str, Any], expected: Expected) -> bool:
    """Whether an object of columns is one row; with columns of objects or arrays it is, as in MLflow."""
    if any(field.dtype.name == "object" for field in expected.inputs.values()):
        return True
    return not any(type(value) is list for value in columns.values())


def _takes_objects(expected: Expected) -> bool:
    """Whether an array of objects is the rows of one unnamed input rather than records by input name."""
    return expected.only is not None and expected.only.dtype.name == "object" and expected.unnamed


def _wanted(expected: Expected) -> str:
    match expected.form:
        case "tensor" if expected.only is not None:
            return f"an array, {expected.only.wanted()}"
        case "tensors":
            return "an object with an array for each of " + listed(expected.names)
        case "frame":
            return "an array of objects with " + listed(expected.names)
    return "an array, the batch first, or an object of such arrays by input name"
