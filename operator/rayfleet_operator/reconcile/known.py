"""What a fleet's models and pods need of Secrets and ConfigMaps, as far as it is known."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayfleet_operator.api.fleet import ModelFleetSpec
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.kube.keys import FleetKey
from rayfleet_operator.kube.kinds import CONFIG_MAP, SECRET
from rayfleet_operator.kube.references import Reference, References, Unknown
from rayfleet_operator.registry.access import Access, access, pod_files
from rayfleet_operator.registry.errors import CredentialsMissing

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Known:
    """From one moment."""

    access: Mapping[str, Access | CredentialsMissing]
    """By model; one whose objects are not known yet is missing."""
    files: Mapping[str, bytes]
    """For the fleet's credentials Secret."""
    versions: Mapping[str, str]
    """Digest of each Secret and ConfigMap that pods read when they start, by `Kind/name`; "" for one that is not
    there."""
    asking: bool
    """Whether something is not known yet."""

    @classmethod
    def follow(
        cls,
        references: References[FleetKey],
        key: FleetKey,
        models: Sequence[ModelDeployment],
        spec: ModelFleetSpec,
        *,
        before: Mapping[str, bytes],
        unreadable: Collection[str],
        serving: Collection[str],
        digest: Callable[[Mapping[str, str]], str],
    ) -> Known:
        """Watch what the fleet refers to now, and nothing else for it; returns what is known of it.

        Args:
            before: files that the fleet's credentials Secret holds. A model keeps its own while its objects are not
                known (after a restart of the operator none is), are not there, or do not hold what they should.
            unreadable: models of which it is not known what the version that serves refers to; they keep theirs as
                well, and nothing is watched for them.
            serving: models that run with credentials. One that names none any more keeps them as long.
            digest: of an object's data; it must tell nothing about them. Two that begin differently before their dot
                were made in different ways, and cannot be compared.
        """
        by_model = {
            model.metadata.name: list(_of_model(key, model)) if model.metadata.name not in unreadable else []
            for model in models
        }
        environment = list(_of_environment(key, spec))
        wanted = frozenset([*(each for found in by_model.values() for each in found), *environment])
        references.follow(key, wanted)
        found = {reference: references.known(*reference) for reference in wanted}
        shown: dict[str, Access | CredentialsMissing] = {}
        files: dict[str, bytes] = {}
        for model in models:
            named = {reference.kind: found[reference] for reference in by_model[model.metadata.name]}
            secret, config_map = named.get(SECRET), named.get(CONFIG_MAP)
            held = {file: data for file, data in before.items() if file.startswith(f"{model.metadata.name}.")}
            if model.metadata.name in unreadable or isinstance(secret, Unknown) or isinstance(config_map, Unknown):
                files |= held
                continue
            shown[model.metadata.name] = found_out = access(model, secret, config_map)
            # A name that was mistyped, or a Secret that is made anew just now, takes nothing from what serves.
            kept = isinstance(found_out, CredentialsMissing) or (not named and model.metadata.name in serving)
            files |= held if kept else pod_files(model, secret, config_map)
        versions = {
            f"{reference.kind}/{reference.name}": digest(obj.get("data") or {}) if obj is not None else ""
            for reference in environment
            if not isinstance(obj := found[reference], Unknown)
        }
        asking = any(isinstance(obj, Unknown) and obj.why is None for obj in found.values())
        return cls(access=shown, files=files, versions=versions, asking=asking)

    @property
    def environment(self) -> str:
        """The versions in one line, for an annotation; "" while some are not known."""
        return "" if self.asking else ",".join(f"{name}@{version}" for name, version in sorted(self.versions.items()))

    def stale(self, read: str | None) -> list[str]:
        """What changed since pods read it; `read` is the `environment` of then, None where there are no pods."""
        if not read:
            return []
        then = dict(each.rsplit("@", 1) for each in read.split(",") if "@" in each)
        # What was not there was read later: no pod starts without it.
        return sorted(name for name, version in self.versions.items() if _changed(then.get(name, ""), version))


def _changed(then: str, now: str) -> bool:
    """Whether a digest tells of other contents than the one before; one of another operator's key tells nothing."""
    comparable = not now or then.partition(".")[0] == now.partition(".")[0]
    return then not in ("", now) and comparable


def _of_model(key: FleetKey, model: ModelDeployment) -> Iterator[Reference]:
    registry = model.spec.model.registry
    if registry.secret_name is not None:
        yield Reference(SECRET, key.namespace, registry.secret_name)
    if registry.ca_config_map_name is not None:
        yield Reference(CONFIG_MAP, key.namespace, registry.ca_config_map_name)


def _of_environment(key: FleetKey, spec: ModelFleetSpec) -> Iterator[Reference]:
    for source in spec.env_from:
        if source.secret_name is not None:
            yield Reference(SECRET, key.namespace, source.secret_name)
        elif source.config_map_name is not None:
            yield Reference(CONFIG_MAP, key.namespace, source.config_map_name)
