"""What a signature expects, worked out once and kept: the checks that every protocol applies to its inputs.

`of(signature)` finds the `Expected` of a signature by identity, because hashing a pydantic model costs more than
decoding a small request.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from rayfleet_serving.protocol import dtypes
from rayfleet_serving.protocol.dtypes import Array, BadValueError, Dtype
from rayfleet_serving.protocol.errors import invalid
from rayfleet_serving.protocol.jsontext import kind, show
from rayfleet_serving.signature import UNNAMED_INPUT, Field, InputForm, Signature

MAX_RANK = 32
"""Deepest array that is looked at; numpy itself stops at 64."""
KEPT = 256
"""Signatures whose expectations are kept."""


class Input:
    """One input of a model: a tensor with the batch on axis 0, or a column."""

    __slots__ = ("column", "dtype", "label", "name", "oip", "required", "row", "shape", "size")

    def __init__(self, field: Field, *, column: bool) -> None:
        self.name = field.name
        self.label = f"Input {field.name!r}"
        self.column = column
        self.required = field.required
        self.shape = field.shape
        self.row = field.shape[1:]
        """Shape of one row."""
        self.size = None if -1 in self.row else math.prod(self.row)
        """Elements of one row, None where a dimension is open."""
        self.dtype: Dtype = dtypes.of(field.dtype)
        if field.dtype == "bytes" and not column:
            self.dtype = dtypes.TEXT_BYTES
        self.oip: Dtype = {"bytes": dtypes.TEXT_BYTES, "object": dtypes.JSON_TEXT}.get(field.dtype, self.dtype)
        """How the values travel in the Open Inference Protocol."""

    def rows(self, value: Any, where: str, *, single: bool = False, flattened: bool = False) -> Array:
        """A JSON array as rows of this input.

        Args:
            value: nested arrays, the batch first; for a column, one value for each row.
            where: JSON path of `value`.
            single: whether one row without the batch axis is taken as a batch of one.
            flattened: whether rows may come as flat arrays of all their elements.

        Raises:
            RequestError: 400.
        """
        if type(value) is not list and single and len(self.shape) == 1 and not self.column:
            value = [value]
        if type(value) is not list:
            raise invalid(f"{self.label}: expected {self.wanted()}, got {kind(value)} ({show(value)}).", where)
        if self.column:
            return self.fill(value, (len(value),), where)
        # Objects may be arrays themselves: only the signature tells where the axes end.
        flat, shape = flatten(value, self.label, where, len(self.shape) if self.dtype.name == "object" else None)
        if single and len(shape) == len(self.shape) - 1:
            shape = (1, *shape)
        elif flattened and self.size == shape[-1] and len(shape) == 2:
            shape = (shape[0], *self.row)
        return self.fill(flat, shape, where)

    def fill(self, flat: Sequence[Any], shape: tuple[int, ...], where: str, dtype: Dtype | None = None) -> Array:
        """Flat JSON values as an array of `shape`, which is checked against the signature and the number of values.

        Raises:
            RequestError: 400.
        """
        if shape[1:] != self.row or len(shape) != len(self.shape) or self.shape[0] != -1 or 0 in shape:
            self._check(shape, where)
        if math.prod(shape) != len(flat):
            raise invalid(
                f"{self.label}: shape {list(shape)} holds {math.prod(shape)} elements, the data has {len(flat)}.", where
            )
        return convert(flat, shape, dtype or self.dtype, self.column, self.label, where)

    def holds(self, array: Array) -> bool:
        """Whether an array has the dtype and shape of what is read for this input. Text, binary and objects are all
        arrays of objects, and not told apart."""
        dtype = "object" if self.dtype.name in ("str", "bytes") else self.dtype.name
        if array.dtype != np.dtype(dtype) or array.ndim != len(self.shape):
            return False
        return all(want in (-1, given) for want, given in zip(self.shape, array.shape, strict=True))

    def wanted(self) -> str:
        """What belongs here, in words."""
        if self.column:
            return f"one {self.dtype.name} for each row"
        return f"{self.dtype.name} of shape {list(self.shape)}"

    def _check(self, shape: tuple[int, ...], where: str) -> None:
        if len(shape) != len(self.shape):
            raise invalid(
                f"{self.label}: expected {len(self.shape)} dimensions {list(self.shape)}, got {len(shape)}: "
                f"{show(list(shape))}.",
                where,
            )
        if 0 in shape:
            raise invalid(f"{self.label}: shape {show(list(shape))} holds no elements; send at least one row.", where)
        if any(want not in (-1, given) for want, given in zip(self.shape, shape, strict=True)):
            raise invalid(
                f"{self.label}: expected shape {list(self.shape)} (-1 is any size), got {show(list(shape))}.", where
            )


class Expected:
    """What one signature expects."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self.form: InputForm = signature.form
        column = signature.form == "frame"
        self.inputs = {field.name: Input(field, column=column) for field in signature.inputs}
        self.names = list(self.inputs)
        self.required = [name for name, field in self.inputs.items() if field.required]
        self.unnamed = self.names in ([UNNAMED_INPUT], [str(i) for i in range(len(self.names))])
        """The model gave its inputs no names: they are known by position."""
        self.only: Input | None = next(iter(self.inputs.values())) if len(self.inputs) == 1 else None
        self.params = {field.name: field for field in signature.params}

    def check_names(self, given: Iterable[str], where: str) -> None:
        """Raises `RequestError` 400 for names that are missing or that the model does not take."""
        given = dict.fromkeys(given)
        missing = [name for name in self.required if name not in given]
        extra = [name for name in given if name not in self.inputs]
        if not missing and not extra:
            return
        problems = [f"missing {listed(missing)}"] if missing else []
        problems += [f"unknown {listed(extra)}"] if extra else []
        raise invalid(f"Inputs: {' and '.join(problems)}. This model takes {listed(self.names)}.", where)

    def check_decoded(self, form: InputForm, inputs: Mapping[str, Array], params: Mapping[str, Any]) -> None:
        """Raises `RequestError` 400 where a request that was read for another signature does not fit this one."""
        if extra := params.keys() - self.params.keys():
            raise invalid(f"This model has no parameters {listed(sorted(extra))}.", "parameters")
        if self.form == "any":
            return
        if form != self.form:
            raise invalid(f"Inputs have the form {form!r}; this model takes {self.form!r}.", "inputs")
        self.check_names(inputs, "inputs")
        for name, array in inputs.items():
            if not self.inputs[name].holds(array):
                given = f"{array.dtype.name} of shape {list(array.shape)}"
                raise invalid(f"{self.inputs[name].label}: expected {self.inputs[name].wanted()}, got {given}.", name)

    def parameters(self, given: Any, where: str) -> dict[str, Any]:
        """The parameters of a request, each in its declared type.

        Raises:
            RequestError: 400 for a parameter that is unknown or of another type.
        """
        if given is None:
            return {}
        if type(given) is not dict:
            raise invalid(f"{where} takes an object of parameters by name, got {kind(given)}.", where)
        return {name: self._parameter(name, value, f"{where}.{name[:80]}") for name, value in given.items()}

    def _parameter(self, name: str, value: Any, where: str) -> Any:
        field = self.params.get(name)
        if field is None:
            takes = f"It takes {listed(list(self.params))}." if self.params else "It takes no parameters."
            raise invalid(f"This model has no parameter {show(name)}. {takes}", where)
        label = f"Parameter {name!r}"
        dtype = dtypes.of(field.dtype)
        if value is None and field.default is None:
            return None
        if field.dtype.startswith("datetime64"):
            # MLflow reads the text itself.
            convert([value], (1,), dtype, False, label, where)
            return value
        if not field.shape:
            return convert([value], (1,), dtype, False, label, where).tolist()[0]
        if type(value) is not list:
            raise invalid(f"{label}: expected an array of {field.dtype}, got {kind(value)}.", where)
        return convert(value, (len(value),), dtype, False, label, where).tolist()


def of(signature: Signature) -> Expected:
    """What `signature` expects."""
    known = _known.get(id(signature))
    if known is not None and known.signature is signature:
        return known
    if len(_known) >= KEPT:
        _known.clear()
    # The entry holds the signature, so that no other object can get its id.
    expected = _known[id(signature)] = Expected(signature)
    return expected


_known: dict[int, Expected] = {}


def flatten(value: list[Any], label: str, where: str, axes: int | None = None) -> tuple[list[Any], tuple[int, ...]]:
    """The elements of nested arrays in order, and their shape; arrays within `axes` levels of them are elements.

    Raises:
        RequestError: 400 where arrays of one level differ in length, or there are more than `MAX_RANK` levels.
    """
    flat, shape = value, [len(value)]
    while flat and type(flat[0]) is list and len(shape) != axes:
        if len(set(map(type, flat))) > 1 or len(set(map(len, flat))) > 1:
            raise invalid(f"{label}: the arrays on level {len(shape)} are ragged; all must have one length.", where)
        if len(shape) == MAX_RANK:
            raise invalid(f"{label}: more than {MAX_RANK} dimensions.", where)
        shape.append(len(flat[0]))
        flat = list(chain.from_iterable(flat))
    return flat, tuple(shape)


def convert(flat: Sequence[Any], shape: tuple[int, ...], dtype: Dtype, missing: bool, label: str, where: str) -> Array:
    """Flat JSON values as an array of `shape`, whose product is their number.

    Raises:
        RequestError: 400, naming the first element that does not belong there.
    """
    try:
        values = dtype.convert(flat, missing)
    except BadValueError as bad:
        position = "".join(f"[{i}]" for i in np.unravel_index(bad.index, shape)) if len(flat) > 1 else ""
        raise invalid(f"{label}: {'element ' + position + ': ' if position else ''}{bad.reason}.", where) from None
    return values if len(shape) == 1 else values.reshape(shape)


def same_rows(inputs: Mapping[str, Array], where: str) -> int:
    """The number of rows that all inputs share.

    Raises:
        RequestError: 400 where they differ, or there are none.
    """
    lengths = {name: len(array) for name, array in inputs.items()}
    rows = next(iter(lengths.values()), 0)
    for name, length in lengths.items():
        if length != rows:
            first = next(iter(lengths))
            raise invalid(f"Inputs have different numbers of rows: {rows} in {first!r}, {length} in {name!r}.", where)
    if rows == 0:
        raise invalid("The request holds no rows; send at least one.", where)
    return rows


def listed(names: Sequence[str], limit: int = 10) -> str:
    """Names for a sentence, the first ten of them."""
    shown = ", ".join(repr(name[:80]) for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "") or "none"
