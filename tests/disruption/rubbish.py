"""An application whose replicas tell the policy rubbish, beside rayfleet's own."""

from typing import Any

from ray import serve
from ray.serve import Application


@serve.deployment(name="rubbish")
class Rubbish:
    def __init__(self) -> None:
        self._asked = 0

    def record_autoscaling_stats(self) -> dict[str, Any]:
        self._asked += 1
        numbers = [float("nan"), float("inf"), -5.0, 1e300, 7e7]
        return {"rayfleet_wanted": numbers[self._asked % len(numbers)], "rayfleet_step_up": float("nan")}


def build(args: dict[str, str]) -> Application:
    return Rubbish.bind()  # type: ignore[attr-defined,no-any-return]
