"""Whether an exported PyTorch program (pt2) is free of code, told before torch.export.load opens it.

A pt2 archive is not safe by itself. Loading one unpickles its example inputs, evaluates its size expressions with
sympy, runs its guards through `exec`, writes its names into generated source, and looks up any attribute of `torch` it
names as an operator ("torch.os.system"). So everything is refused that is not known: records by name, strings by the
place they stand in, expressions by their syntax tree, operators by what they resolve to.
"""

from __future__ import annotations

import ast
import io
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch._ops import OpOverload

RAW_RECORD = re.compile(r"data/weights/weight_\d+|data/constants/tensor_\d+")
JSON_RECORD = re.compile(r"models/\w+\.json|data/(weights|constants)/\w+_config\.json")
PICKLED_RECORD = re.compile(r"data/sample_inputs/\w+\.pt")
TEXT_RECORD = re.compile(r"archive_format|archive_version|byteorder|(\.data/)?version|\.data/serialization_id")

PLAIN = re.compile(r"[\w.+-]*")
"""Names and versions: nothing that could call something wherever it ends up in generated source."""

NOTES = {"stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "from_node", "custom"}
"""Free text about a node's origin, which nothing evaluates."""

OPERATORS = re.compile(
    r"abs|add|and_|eq|floordiv|ge|getitem|gt|index|inv|invert|le|lshift|lt|mod|mul|ne|neg|not_|or_|pos|pow|rshift|sub"
    r"|truediv|xor"
)
SYMBOLIC = re.compile(r"torch\.(sym_(float|int|ite|max|min|not|sum|fresh_size)|_sym_(sqrt|log2))")
HIGHER_ORDER = re.compile(
    r"torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond|while_loop|map_impl|scan)"
)
OP_NAMESPACES = {"aten", "prims", "torchvision"}

FUNCTIONS = re.compile(
    r"Abs|Add|And|BitwiseFn_bitwise_(and|or)|CeilDiv|CeilToInt|CleanDiv|Eq|Equality|Float|FloatPow|FloatTrueDiv|FloorDiv"
    r"|FloorToInt|GreaterThan|Identity|IntTrueDiv|Integer|IsNonOverlappingAndDenseIndicator|LShift|LessThan|Max|Min|Mod"
    r"|ModularIndexing|Mul|Ne|Not|Or|Piecewise|Pow|PowByNatural|PythonMod|RShift|Rational|RoundDecimal|RoundToInt"
    r"|StrictGreaterThan|StrictLessThan|Symbol|ToFloat|TruncToFloat|TruncToInt|Unequality|Where|abs|ceiling"
    r"|cast_symbool_to_symint_guardless|floor|max|min"
)
"""sympy's, and those torch adds to it."""
METHODS = {"size", "stride", "storage_offset", "item"}
SYNTAX = (
    ast.Expression,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.Subscript,
    ast.keyword,
    ast.expr_context,
    ast.operator,
    ast.unaryop,
    ast.boolop,
    ast.cmpop,
)


def violation(archive: Path) -> str | None:
    """What in the archive could run code, None where nothing can.

    Records are read with torch's own reader, so that what is checked is what is loaded.

    Raises:
        RuntimeError: it is no archive.
    """
    reader = torch._C.PyTorchFileReader(str(archive))
    for name in reader.get_all_records():
        if RAW_RECORD.fullmatch(name) or TEXT_RECORD.fullmatch(name):
            continue
        if JSON_RECORD.fullmatch(name):
            found = next(_violations(json.loads(reader.get_record(name)), "", in_nodes=False), None)
        elif PICKLED_RECORD.fullmatch(name):
            found = _pickle_violation(reader.get_record(name))
        else:
            found = "is no record this version of rayfleet knows to be safe"
        if found:
            return f"record {name} {found}"
    return None


def _violations(value: Any, key: str, *, in_nodes: bool) -> Iterator[str]:
    """Every unsafe value below one of a program's JSON documents."""
    if isinstance(value, dict):
        for name, child in value.items():
            if not PLAIN.fullmatch(name):
                yield f"has the name {name!r}"
            yield from _violations(child, name, in_nodes=in_nodes or name == "nodes")
    elif isinstance(value, list):
        for child in value:
            yield from _violations(child, key, in_nodes=in_nodes)
    elif key == "use_pickle" and value is not False:
        yield "has pickled tensors"
    elif isinstance(value, str) and not _safe_text(value, key, in_nodes):
        yield f"has {key} {value[:200]!r}"


def _safe_text(text: str, key: str, in_nodes: bool) -> bool:
    if key in ("target", "as_operator"):
        return _safe_target(text)
    if key in ("expr_str", "guards_code"):
        return _safe_expression(text)
    if key in ("in_spec", "out_spec"):
        return not text or _safe_tree(json.loads(text)[1])
    if in_nodes and (key in NOTES or key in ("as_string", "as_strings")):
        return True  # arguments are written as literals
    return PLAIN.fullmatch(text) is not None


def _safe_target(target: str) -> bool:
    """Operators of a few libraries that touch no files, arithmetic, and control flow over the program's own graphs."""
    if SYMBOLIC.fullmatch(target) or HIGHER_ORDER.fullmatch(target):
        return True
    path = target.split(".")
    if path[0] == "_operator":
        return len(path) == 2 and OPERATORS.fullmatch(path[1]) is not None
    if path[0] == "math":
        return len(path) == 2 and not path[1].startswith("_") and callable(getattr(math, path[1], None))
    if path[:2] != ["torch", "ops"] or len(path) != 5 or path[2] not in OP_NAMESPACES:
        return False
    packet = getattr(getattr(torch.ops, path[2]), path[3], None)
    operator = getattr(packet, path[4], None)
    return isinstance(operator, OpOverload) and all(a.name != "filename" for a in operator._schema.arguments)


def _safe_expression(text: str) -> bool:
    """Arithmetic and comparisons over sizes, in sympy's notation or a guard's ("L['x'].size()[0] >= 3")."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError):
        return False
    return all(_safe_node(node) for node in nodes)


def _safe_node(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name | ast.Attribute)
    if isinstance(node, ast.Name):
        return FUNCTIONS.fullmatch(node.id) is not None or node.id in ("L", "inf", "oo", "math", "true", "false")
    if isinstance(node, ast.Attribute):
        of_math = isinstance(node.value, ast.Name) and node.value.id == "math"
        return not node.attr.startswith("_") if of_math else node.attr in METHODS
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, str) or PLAIN.fullmatch(node.value) is not None
    return isinstance(node, SYNTAX)


def _safe_tree(spec: Any) -> bool:
    """Tuples, lists and dicts; other containers name modules to import."""
    if spec["type"] not in (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"):
        return False
    keys = json.loads(spec["context"]) if spec["context"] else None
    if keys is not None and not (
        isinstance(keys, list) and all(isinstance(key, str) and PLAIN.fullmatch(key) for key in keys)
    ):
        return False
    return all(_safe_tree(child) for child in spec["children_spec"])


def _pickle_violation(record: bytes) -> str | None:
    """torch's restricted unpickler takes tensors and plain containers only; what it takes is safe to unpickle again."""
    try:
        torch.load(io.BytesIO(record), map_location="cpu", weights_only=True)
    except Exception as e:
        return f"is a pickle of more than tensors ({str(e).splitlines()[0]})"
    return None
