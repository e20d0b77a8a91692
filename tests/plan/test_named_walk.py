"""Whatever happens in whatever order, the table is whole, and all comes to rest."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rayfleet_operator.plan.conditions import ConditionType
from rayfleet_operator.plan.observed import ResolutionProblem
from rayfleet_operator.plan.rollout import ABORT_ANNOTATION, PROMOTE_ANNOTATION, attempt, promotion
from rayfleet_serving.config import ROUTER_APP

from .play import BLUE_GREEN, CANARY, Play
from .scenes import applications, identity


class Walk(RuleBasedStateMachine):
    """URIs move, specs are edited, rollouts begin and are aborted, applications fail, registries and routers go away,
    in any order."""

    @initialize()
    def start(self) -> None:
        self.play = Play()
        self.means: dict[str, int] = {"digits": 1}
        self.spec: dict[str, Any] = {}

    @rule(version=st.integers(1, 4), name=st.sampled_from(["", "b", "c", "d"]))
    def moves(self, version: int, name: str) -> None:
        self.means[f"digits/{name}" if name else "digits"] = version
        self.play.mean(version, name)

    @rule(name=st.sampled_from(["", "b", "c", "d"]), problem=st.sampled_from(["down", "gone", "held", "silent"]))
    def means_nothing(self, name: str, problem: str) -> None:
        key = f"digits/{name}" if name else "digits"
        last = identity(self.means[key]) if key in self.means else None
        self.play.resolutions[key] = {
            "down": ResolutionProblem("RegistryUnreachable", "it is away", last),
            "gone": ResolutionProblem("AliasNotFound", "there is no such alias"),
            "held": ResolutionProblem("InvalidSpec", "it is of another time", held=True),
        }.get(problem)  # type: ignore[assignment]
        if problem == "silent":
            del self.play.resolutions[key]

    @rule()
    def means_something_again(self) -> None:
        self.play.resolutions |= {key: identity(version) for key, version in self.means.items()}

    @rule(
        weights=st.lists(st.integers(0, 33), max_size=3),
        names=st.permutations("bcd"),
        mirror=st.booleans(),
        strategy=st.sampled_from([None, CANARY, BLUE_GREEN]),
        replicas=st.integers(1, 3),
    )
    def edited(
        self,
        weights: list[int],
        names: list[str],
        mirror: bool,
        strategy: dict[str, Any] | None,
        replicas: int,
    ) -> None:
        versions: list[dict[str, Any]] = [
            {"name": name, "uri": f"models:/digits@{name}", "weight": 0 if strategy else weight, "replicas": number}
            for number, (name, weight) in enumerate(zip(names, weights, strict=False), start=1)
        ]
        if versions and mirror:
            versions[-1] = {**versions[-1], "weight": 0, "mirror": 50}
        self.spec = {"replicas": replicas} | ({"traffic": {"versions": versions}} if versions else {})
        self.play.edit(**self.spec, **({"rollout": strategy} if strategy else {}))

    @rule(command=st.sampled_from(["abort", "all", "stage"]))
    def somebody_says(self, command: str) -> None:
        if (told := self.play.status.rollout) is None:
            return
        stage = {"all": "all"}.get(command, str(told.stage))
        said = {ABORT_ANNOTATION: attempt(told.mark)} if command == "abort" else None
        self.play.say(**(said or {PROMOTE_ANNOTATION: promotion(told.mark, stage)}))

    @rule()
    def looks(self) -> None:
        self.play.look()

    @rule()
    def goes_on(self) -> None:
        self.play.advance()

    @precondition(lambda self: self.play.world.routers)
    @rule()
    def a_router_is_restarted(self) -> None:
        self.play.world.restart_router(self.play.world.routers[0])

    @rule(version=st.integers(1, 4), broken=st.booleans())
    def starts_or_does_not(self, version: int, broken: bool) -> None:
        model_ids = self.play.world.broken
        (model_ids.add if broken else model_ids.discard)(identity(version).model_id)

    @rule(version=st.integers(1, 4))
    def dies(self, version: int) -> None:
        """Every replica of it, until Serve has started others."""
        for name, app in self.play.world.apps.items():
            if (
                name != ROUTER_APP
                and app.status == "RUNNING"
                and app.entry["args"]["identity"]["version"] == str(version)
            ):
                app.status = "UNHEALTHY"
                for router in self.play.world.routers:
                    router.knows.discard(name)

    @rule()
    def minutes_pass(self) -> None:
        """So that what failed may be tried again."""
        self.play.now += timedelta(minutes=6)

    @rule(silent=st.booleans())
    def reports(self, silent: bool) -> None:
        self.play.world.silent = silent

    @invariant()
    def the_table_is_whole(self) -> None:
        if self.play.planned is None or not (rows := self.play.rows()):
            return
        weighted = [row for row in rows.values() if row.weight]
        assert sum(row.weight for row in weighted) in (0, 100)
        assert not weighted or any(not row.name for row in weighted), "the model's own is never without"
        given_afresh = {row.app for row in rows.values() if not row.leaving} - {*applications(self.play.planned)}
        assert all(self.play.world.apps[app].status in ("DEPLOY_FAILED", "DELETING") for app in given_afresh)

    def teardown(self) -> None:
        if not hasattr(self, "play"):
            return
        self.play.world.silent = False
        self.play.world.broken.clear()
        self.means = {"digits/b": 3, "digits/c": 4, "digits/d": 1} | self.means
        self.means_something_again()
        self.play.edit(**self.spec)
        self.play.settle()
        self.play.now += timedelta(minutes=6)
        self.play.settle()
        self.play.now += timedelta(minutes=1)
        self.play.settle()
        assert self.play.told(ConditionType.PROGRESSING)[1] == "Settled"
        traffic = self.play.model.spec.traffic
        names = [f"digits/{version.name}" for version in traffic.versions] if traffic is not None else []
        wanted = {self.means[key] for key in ("digits", *names)}
        assert self.play.rows().keys() == wanted


TestWalk = Walk.TestCase

TestWalk.settings = settings(max_examples=60, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow])
