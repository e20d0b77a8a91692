"""What a server is asked only so that people are told: seldom, in bounded time, and never to a version's harm.

Which version a URI means is known before. An answer that does not come leaves told what was told before.
"""

from __future__ import annotations

import asyncio
import re
import time

from rayfleet_operator.plan.observed import Notice
from rayfleet_operator.registry import notices
from rayfleet_operator.registry.answers import RegisteredModel, Version, Versions
from rayfleet_operator.registry.errors import RegistryError, RegistryUnreachable
from rayfleet_operator.registry.known import Known
from rayfleet_operator.registry.server import Rejection, TrackingServer
from rayfleet_operator.registry.uri import RegistryUri
from rayfleet_serving.config import ModelIdentity

WITHIN_S = 2.0
"""For each thing that is asked."""
PAGE = 500
"""Versions in one answer, of about a kilobyte each."""
PAGES = 4
SILENT_S = 60.0
"""For how long a server whose answer did not come is asked nothing of this kind: one wait is enough for all models."""

_RUN_LOCATION = re.compile(r"/([0-9a-f]{32})/artifacts/(.+)$")


async def told(
    server: TrackingServer,
    known: Known,
    uri: RegistryUri,
    version: Version,
    identity: ModelIdentity,
    model: RegisteredModel | None,
) -> tuple[Notice, ...]:
    """
    Args:
        version: what the URI means.
        model: of a stage's version, whose other versions may be in the stage, too; None for any other URI.
    """
    stage = await _stage(server, known, model, version) if model is not None else ()
    return (
        *notices.archived(version, uri),
        *notices.several_in_stage(version.name, version.current_stage, stage),
        *await _changed(server, known, version, identity),
    )


async def _stage(server: TrackingServer, known: Known, model: RegisteredModel, highest: Version) -> tuple[int, ...]:
    """Every version in the stage of the highest one there, which comes first; () where that is not known.

    Asked for when something of the model has changed since, and now and then.
    """
    name, stage = model.name, highest.current_stage
    # A filter has no escape for a quote.
    if highest.version == 1 or stage not in notices.SHARED_STAGES or {"'", '"'} <= set(name):
        return ()
    before = known.stages.get((name, stage))
    if before is not None and before[0] == model.last_updated_timestamp:
        return before[1]
    _, last = known.stages.last((name, stage)) or (0, ())
    said = _led_by(highest, last)
    if _silent(known):
        return said
    quote = '"' if "'" in name else "'"
    params: dict[str, str | int] = {"filter": f"name = {quote}{name}{quote}", "max_results": PAGE}
    found: list[int] = []
    try:
        async with asyncio.timeout(WITHIN_S):
            for _ in range(PAGES):
                page = await server.get("model-versions/search", params, Versions)
                found += [each.version for each in page.model_versions if each.current_stage == stage]
                if not page.next_page_token:
                    break
                params["page_token"] = page.next_page_token
    except (TimeoutError, RegistryUnreachable):
        _quieten(known)
        return said
    except (Rejection, RegistryError):
        found = []
    versions = _led_by(highest, tuple(sorted(found, reverse=True)))
    known.stages.put((name, stage), (model.last_updated_timestamp, versions))
    return versions


async def _changed(
    server: TrackingServer, known: Known, version: Version, identity: ModelIdentity
) -> tuple[Notice, ...]:
    """Whether a run's artifacts were written again after the version was registered; asked for now and then."""
    where = _RUN_LOCATION.search(identity.artifact_uri)
    if where is None:
        return ()
    before = known.changed.get(version)
    if before is not None:
        return before
    said = known.changed.last(version) or ()
    if _silent(known):
        return said
    run_id, path = where[1], where[2]
    # By its path, which the server kept as it was written, such a version is known by its content.
    followed = version.source.startswith("runs:/")
    try:
        async with asyncio.timeout(WITHIN_S):
            mlmodel = await server.run_artifact(run_id, f"{path}/MLmodel")
            found = tuple(notices.changed(version, run_id, path, mlmodel, followed=followed))
    except (TimeoutError, RegistryUnreachable):
        _quieten(known)
        return said
    except (Rejection, RegistryError):
        found = said
    known.changed.put(version, found)
    return found


def _led_by(highest: Version, versions: tuple[int, ...]) -> tuple[int, ...]:
    """() where something was moved between two answers: the next ones tell of it."""
    return versions if versions[:1] == (highest.version,) else ()


def _silent(known: Known) -> bool:
    return time.monotonic() < known.silent_until


def _quieten(known: Known) -> None:
    known.silent_until = time.monotonic() + SILENT_S
