"""Train and register the digits in a running MLflow server, and write one picture to ask about.

    cd examples && python -m digits.register http://localhost:5000

Each run adds a version and moves the alias `champion` to it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mlflow

from digits import data, registry, train
from digits.progress import say

EPOCHS = 20
PICTURE = Path(__file__).with_name("seven.png")


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m digits.register TRACKING_URI, like http://localhost:5000", file=sys.stderr)
        return 2
    mlflow.set_tracking_uri(sys.argv[1])
    training, held_out = data.load()
    say(f"Training: {EPOCHS} epochs")
    version = registry.log_version(train.train(training, epochs=EPOCHS), training.tensors()[:2])
    registry.promote(version)
    say(f"Registered version {version} of {registry.MODEL}; {registry.ALIAS} is on it")
    seven = next(picture for picture, digit in zip(held_out.pngs(), held_out.digits, strict=True) if digit == 7)
    PICTURE.write_bytes(seven)
    say(f"Wrote {PICTURE.name}, a held-out picture of a seven")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
