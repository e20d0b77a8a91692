"""Write the golden files anew: `python -m render.golden`, in tests/."""

from __future__ import annotations

from pathlib import Path

import yaml

from rayfleet_operator.render.raycluster import cluster_spec

from .specs import FULL, KINDS, NAME, SMALL, spec


def write() -> None:
    for name, written in (("small", SMALL), ("full", FULL), ("kinds", KINDS)):
        # Through YAML without aliases: the same map may stand in several places.
        dumper = type("Plain", (yaml.SafeDumper,), {"ignore_aliases": lambda *_: True})
        text = yaml.dump(cluster_spec(NAME, spec(written)), Dumper=dumper, sort_keys=False, width=120)
        (Path(__file__).parent / "golden" / f"{name}.yaml").write_text(text)


if __name__ == "__main__":
    write()
