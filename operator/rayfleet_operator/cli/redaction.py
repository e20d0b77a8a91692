"""Values as they may be printed: what looks like a secret is not shown, by the name that it has.

Files of ours hold no Secrets, but variables, annotations and arguments of containers hold what people put there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from rayfleet_operator.api.forms import CREDENTIALS
from rayfleet_operator.api.problems import harmless
from rayfleet_operator.render.changes import ABSENT, Named, Path

NOT_SHOWN = "(not shown)"
LEFT_OUT = "(left out)"
MOST = 160
"""Characters of a value; more are cut off."""
LOOKED_AT = 2048
"""Characters of a text that are looked through; of more, no more is shown."""
_LAST_WORD = re.compile(r"(?<=\s)\S*$")

_WORD = (
    r"secret|token|passw|passphrase|passcode|pass(?![a-z])|pwd|credential|private|bearer|auth(?!or(?!iz))|dsn|salt"
    r"|cookie|jwt|webhook|signature|(?<![a-z])sig(?![a-z])"
    r"|(?:api|access|account|encryption|license|ssh)[-_.]?key|(?<=[\w.-])key(?![\w.-])"
    r"|(?<![a-z])pat(?![a-z])|conn(?:ection)?[-_.]?str"
)
SECRET = re.compile(_WORD, re.IGNORECASE)
"""Names of what nobody should read in the log of a pipeline."""
_REFERENCE = re.compile(r"Names?$|Secrets$|Ref$|Path$|Policy$|Mode$|[Ss]econds$|Audience$|^topologyKey$")
"""Ends of Kubernetes' field names that speak of a secret and do not hold it."""
_NAMES = (("sticky", "cookie"),)
"""Ends of paths of our own that name one and do not hold it."""

_VALUE = r"""(?:'[^']*'|"(?:\\.|[^"\\])*"|[^\s'"]|['"].*)+"""
"""A word as a shell takes it, with its quotes; one that is not closed goes to the end."""
_NAME = rf"(?<![\w.])[\w.-]*(?:{_WORD})[\w.-]*"
"""Only from where it begins: a long text is gone through once."""
_HEADER = re.compile(rf"""({_NAME}:\s+)[^'"\n]+""", re.IGNORECASE)
"""`Authorization: token abc` and `Cookie: a=b; c=d`, as far as the quotes go."""
_ASSIGNED = re.compile(rf"""({_NAME}(?:["']?\s*=\s*|["']\s*:\s*)){_VALUE}""", re.IGNORECASE | re.DOTALL)
"""`--api-token=abc`, `PASSWORD='a b'`, `&sig=abc` and `"password": "abc"` inside of a text."""
_FLAGGED = re.compile(rf"((?<![\w-])-{_NAME}\s+){_VALUE}", re.IGNORECASE | re.DOTALL)
_SCHEME = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE)
_FLAG = re.compile(rf"-{_NAME}", re.IGNORECASE)
_USER_FLAG = re.compile(r"-[uU]|--(?:proxy-)?user")
_USER = re.compile(rf"((?<!\S)(?:-[uU]\s*|--(?:proxy-)?user[\s=]\s*))(?=\S*:|['\"]){_VALUE}", re.DOTALL)
"""`-u me:abc`, as curl takes it. `-u` alone is other programs' for something else."""
_HOOK = re.compile(r"""(https?://[^\s'"]*?hooks?[^\s'"/]*)/[^\s'"]+""", re.IGNORECASE)
"""Addresses to which anybody may post who knows them, as of Slack and Discord."""


def shown(path: Path, value: Any) -> str:
    """The value at this path, on one line, without what a terminal would obey."""
    if value is ABSENT:
        return LEFT_OUT
    hidden = hide(value, secret(path))
    if hidden == NOT_SHOWN:
        return NOT_SHOWN
    text = hidden if isinstance(hidden, str) and hidden else json.dumps(hidden, ensure_ascii=False, default=str)
    text = harmless(text.replace("\n", "\\n"))
    return text if len(text) <= MOST else f"{text[: MOST - 1]}…"


def secret(path: Path) -> bool:
    """Whether what stands at this path should not be shown."""
    if not path:
        return False
    *parents, last = path
    if isinstance(last, Named):
        return False
    if last == "value" and parents and isinstance(parents[-1], Named):
        # A variable of the environment: whatever its name says, it may hold one.
        return True
    if path[-2:] in _NAMES:
        return False
    return isinstance(last, str) and _holds_secret(last)


def _holds_secret(key: str) -> bool:
    return bool(SECRET.search(key)) and not _REFERENCE.search(key)


def hide(value: Any, is_secret: bool = False) -> Any:
    """The value with what should not be shown taken out, at any depth.

    Args:
        is_secret: its own name says that it is one, if it is text. Maps and lists are looked through by their own.
    """
    if isinstance(value, Mapping):
        variable = isinstance(value.get("name"), str)
        return {
            key: hide(each, _holds_secret(str(key)) or (variable and key == "value")) for key, each in value.items()
        }
    if isinstance(value, list):
        flags = [None, *value]
        return [
            hide(each, is_secret or (isinstance(flag, str) and _follows(flag, each)))
            for flag, each in zip(flags, value, strict=False)
        ]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return value
    if is_secret:
        return NOT_SHOWN
    return _text(value) if isinstance(value, str) else value


def _follows(flag: str, value: Any) -> bool:
    """Whether the argument after this one is a secret."""
    if _USER_FLAG.fullmatch(flag):
        return isinstance(value, str) and ":" in value
    return _FLAG.fullmatch(flag) is not None


def _text(value: str) -> str:
    if len(value) > LOOKED_AT:
        # Without the last word: what was cut off may be what gives it away.
        value = _LAST_WORD.sub("…", value[:LOOKED_AT])
    value = CREDENTIALS.sub("***@", value)
    value = _HOOK.sub(r"\1/***", value)
    value = _SCHEME.sub(r"\1 ***", value)
    for found in (_HEADER, _ASSIGNED, _FLAGGED, _USER):
        value = found.sub(r"\1***", value)
    return value
