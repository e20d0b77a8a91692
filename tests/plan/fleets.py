"""Fleets on Kubernetes, stepped until something is so, and what may be taken from them."""

from __future__ import annotations

from collections.abc import Callable

from .kuberay import Fleet
from .scenes import identity
from .world import World


def until(fleet: Fleet, done: Callable[[], bool], *, steps: int = 60, keeps: tuple[str, ...] = ()) -> None:
    """Step until it is so; the models of `keeps` must answer all the time."""
    for _ in range(steps):
        fleet.step()
        for name in keeps:
            assert fleet.answers(name), (
                f"{name} is out of service after {len(fleet.history)} steps: {fleet.condition(name, 'Ready')}"
            )
        if done():
            return
    raise AssertionError(
        f"not so after {steps} steps; {fleet.history[-1]}; {fleet.active=} {fleet.pending=} {fleet.followed=}"
    )


def started(*broken: int, **versions: int) -> Fleet:
    """A fleet that has started, and where all that can answer does."""
    fleet = Fleet(broken={identity(each).model_id for each in broken})
    for name, version in versions.items():
        fleet.add(name, version)
    good = [name for name, version in versions.items() if version not in broken]
    until(fleet, lambda: fleet.active is not None and all(fleet.answers(name) for name in good))
    settle(fleet)
    return fleet


def settle(fleet: Fleet, steps: int = 40) -> None:
    fleet.step(steps)


def lose(fleet: Fleet, what: str) -> None:
    """One answer of the cluster that serves: the dashboard's, what it remembers, or the routers'."""
    match what:
        case "silent":
            fleet.silent.add(fleet.serving.name)
        case "forgetful":
            fleet.forgetful.add(fleet.serving.name)
        case "routers":
            fleet.serving.serve.silent = True


def never_starts(name: str, world: World) -> Callable[[str], None]:
    """No worker is large enough there for a model, or for one of its applications. Returns what lets it start again."""
    advance = world.advance_app

    def unless_stuck(app: str) -> None:
        if not app.startswith(name) or world.apps[app].status == "DELETING":
            advance(app)

    world.advance_app = unless_stuck  # type: ignore[method-assign]
    return advance
