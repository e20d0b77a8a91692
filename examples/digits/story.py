"""Train two versions, serve the first, replace it by the second under load, and check every number."""

from __future__ import annotations

import asyncio
from pathlib import Path

from digits import clients, data, registry, train, up
from digits.data import Pictures
from digits.progress import say

SWITCH_SECONDS = 120
AFTERWARDS_SECONDS = 5
SHOWN_FAILURES = 5


class DemoError(Exception):
    """Something that the demo promises did not hold."""


def tell(folder: Path) -> None:
    """The whole story; everything it starts is gone when it returns or raises."""
    say("Loading scikit-learn's handwritten digits")
    training, held_out = data.load()
    say(f"{len(training.digits)} pictures to train with, {len(held_out.digits)} held out")
    say("Starting an MLflow server on sqlite")
    with registry.server(folder) as tracking_uri:
        say(f"MLflow is at {tracking_uri}")
        for version, epochs in ((1, 3), (2, 20)):
            say(f"Training version {version}: {epochs} epochs")
            registered = registry.log_version(train.train(training, epochs=epochs), training.tensors()[:2])
            if registered != version:
                raise DemoError(f"the registry called it version {registered}, not {version}")
        registry.promote(1)
        say(f"Registered both; {registry.ALIAS} is version 1")
        say(f"rayfleet up {up.FILE.name}")
        with up.running(tracking_uri, folder) as fleet:
            fleet.wait_ready(registry.MODEL)
            say(f"Ready at {fleet.url}; try {fleet.url}/docs meanwhile")
            asyncio.run(serve_and_replace(fleet.url, held_out))
            say("Ctrl-C")
            code = fleet.stop()
        if code != 0:
            raise DemoError(f"rayfleet up ended with exit code {code}")
    if left := up.left_behind(folder):
        raise DemoError("these processes are still there:\n  " + "\n  ".join(left))
    say("Nothing is left running")


async def serve_and_replace(url: str, held_out: Pictures) -> None:
    """Compares accuracies, moves the alias under load, compares again."""
    async with clients.Digits(url) as client:
        await compare(client, held_out, version=1)
        say(f"{clients.CLIENTS} clients ask without pause")
        async with clients.Load(client, held_out.pngs()) as load:
            await load.until_all_from(1, seconds=30)
            await asyncio.to_thread(registry.promote, 2)
            say(f"Moved {registry.ALIAS} to version 2")
            await load.until_all_from(2, seconds=SWITCH_SECONDS)
            say("Every client is answered by version 2")
            old = load.answered["1"]
            await asyncio.sleep(AFTERWARDS_SECONDS)
        counts = ", ".join(f"{count} from version {version}" for version, count in sorted(load.answered.items()))
        say(f"{load.answered.total()} answers, {counts}; {len(load.failures)} failed")
        if load.failures:
            raise DemoError("requests failed:\n  " + "\n  ".join(load.failures[:SHOWN_FAILURES]))
        if load.answered["1"] != old:
            raise DemoError(f"{load.answered['1'] - old} answers came from version 1 after the switch")
        await compare(client, held_out, version=2)


async def compare(client: clients.Digits, held_out: Pictures, *, version: int) -> None:
    """Accuracy of the version over HTTP, as PNG and as tensor, against the same model without any serving."""
    offline = await asyncio.to_thread(registry.offline_accuracy, version, held_out)
    say(f"Version {version}, accuracy on the held-out pictures: offline     {offline:.4f}")
    for how, ask, inputs in (
        ("PNG upload ", client.upload, held_out.pngs()),
        ("OIP tensor ", client.infer, list(held_out.tensors())),
    ):
        digits, versions = await clients.answers(ask, inputs)
        over_http = held_out.accuracy(digits)
        say(f"Version {version}, accuracy on the held-out pictures: {how} {over_http:.4f}")
        if versions != {str(version)}:
            raise DemoError(f"version {version} should have answered, but {', '.join(sorted(versions))} did")
        if over_http != offline:
            raise DemoError(f"{how.strip()}: accuracy over HTTP is {over_http}, offline it is {offline}")
