"""What a change of a fleet costs: nothing where KubeRay makes it in place, a second Ray cluster where it does not.

Which fields are to blame is found by trying: each change is made alone and rendered, so fields that are added one day
need no word here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayfleet_operator.render import changes, size, standing
from rayfleet_operator.render.changes import Change
from rayfleet_operator.render.names import RESTART_ANNOTATION
from rayfleet_operator.render.size import Size

Json = dict[str, Any]
Render = Callable[[Json], Json]
"""From what was asked for (`asked`) to a rendered cluster; ValueError where that is none, pydantic's among them."""

MOST_TRIED = 64
"""Changes to try one by one; of more, only the fields of the spec are named. A rendering takes a millisecond."""
MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Upgrade:
    """A new Ray cluster that is built beside the one that is there."""

    fields: tuple[str, ...]
    """Paths of what makes it necessary; none where that is not known."""
    size: Size
    """Of the new cluster when it starts: what both together take beyond the one that is there."""
    most: Size
    """As far as Ray's autoscaler may take it."""

    @property
    def why(self) -> str:
        """`spec.image changes`."""
        if not self.fields:
            return "what the pods are made of changes"
        named = self.fields[:MOST_NAMED]
        more = len(self.fields) - len(named)
        return f"{', '.join(named)}{f' and {more} more' if more else ''} change{'s' if len(self.fields) == 1 else ''}"

    @property
    def cluster(self) -> str:
        """`a new Ray cluster of 3 pods (6 CPUs, 12 GiB, 1 GPU)`."""
        grows = f", up to {self.most}" if self.most.pods > self.size.pods else ""
        return f"a new Ray cluster of {self.size}{grows}"

    def __str__(self) -> str:
        return f"{self.why}: {self.cluster} is built beside the old one, and takes over when it answers"


def beside(after: Json, fields: Sequence[str]) -> Upgrade:
    """What a new cluster rendered as `after` takes, whatever is there.

    Args:
        after: with the sizes that its groups are to have (`raycluster.resized`).
        fields: what is to blame, from `blamed`.
    """
    return Upgrade(fields=tuple(fields), size=size.of(after), most=size.of(after, largest=True))


def in_place(before: Json, after: Json) -> bool:
    """As `standing.in_place`; False where somebody wrote into one of them what no cluster looks like."""
    try:
        return standing.in_place(before, after)
    except (LookupError, TypeError, AttributeError):
        return False


def unnoticed(before: Json, after: Json) -> bool:
    """As `standing.unnoticed`, whatever somebody wrote into them."""
    try:
        return standing.unnoticed(before, after)
    except (LookupError, TypeError, AttributeError):
        return False


def asked(spec: Mapping[str, Any], restart: str) -> Json:
    """What people say of a fleet's pods: its spec, and the value of the restart annotation."""
    return {"spec": spec, "metadata": {"annotations": {RESTART_ANNOTATION: restart} if restart else {}}}


def restart_of(tree: Mapping[str, Any]) -> str:
    """The restart annotation's value in what was `asked`."""
    return str(tree["metadata"]["annotations"].get(RESTART_ANNOTATION, ""))


def blamed(before: Json, after: Json, render: Render) -> tuple[str, ...]:
    """Paths of the changes from `before` to `after`, both from `asked`, that KubeRay does not make in place; () where
    none of them is one, alone or together with the others."""
    found = changes.changes(before, after)
    try:
        base, whole = render(before), render(after)
    except ValueError:
        return _fields(found)
    if in_place(base, whole):
        return ()
    if len(found) > MOST_TRIED:
        return _fields(found)
    alone = [(each, _alone(before, each, base, render)) for each in found]
    # Of what cannot stand alone nobody knows; where nothing else explains it, that is to blame.
    sure = [each.where for each, stays in alone if stays is False]
    unsure = [each.where for each, stays in alone if stays is None]
    return tuple(sure or unsure or [each.where for each in found])


def _alone(before: Json, change: Change, base: Json, render: Render) -> bool | None:
    """Whether this change alone is made in place; None where it alone makes no spec."""
    try:
        return in_place(base, render(changes.applied(before, change)))
    except ValueError:
        return None


def _fields(found: Sequence[Change]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(changes.written(each.path[:2]) for each in found))
