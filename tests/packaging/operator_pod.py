"""The operator's pod as the chart makes it, and the settings that the operator reads in it."""

from __future__ import annotations

from pathlib import Path

from helm_chart import Json, of_kind, one

from rayfleet_operator.settings import Settings


def pod(manifests: list[Json]) -> Json:
    spec: Json = one(manifests, "Deployment")["spec"]["template"]["spec"]
    return spec


def settings(manifests: list[Json], folder: Path) -> Settings:
    """What the operator reads in its pod."""
    (defaults,) = of_kind(manifests, "ConfigMap")
    container = pod(manifests)["containers"][0]
    environ = {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}
    mount = next(mount for mount in container["volumeMounts"] if mount["name"] == "fleet-defaults")
    volume = next(volume for volume in pod(manifests)["volumes"] if volume["name"] == "fleet-defaults")
    assert volume["configMap"]["name"] == defaults["metadata"]["name"]
    named = Path(environ["RAYFLEET_FLEET_DEFAULTS"])
    assert str(named.parent) == mount["mountPath"]
    file = folder / named.name
    file.write_text(defaults["data"][named.name])
    return Settings.from_environment(environ | {"RAYFLEET_FLEET_DEFAULTS": str(file)})
