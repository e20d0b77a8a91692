"""When a need becomes a number of replicas: delays, steps and bounds.

Serve does the delays itself (`_apply_delay_logic` in ray/serve/autoscaling_policy.py of Ray 2.60) around a policy that
says what is needed now. `Delays` is the same rule, for those who have no Serve: the simulator.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast the number of replicas may follow the need. Times in seconds."""

    least: int
    most: int
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 300.0
    scale_to_zero_delay_s: float | None = None
    """Of the last replica. None: `downscale_delay_s`."""
    upscale_step: int | None = None
    """Replicas added at a time. None: as many as are needed."""
    downscale_step: int | None = None
    """Replicas taken away at a time. None: as many as are too many."""


def stepped(wanted: int, replicas: int, pace: Pace) -> int:
    """`wanted` as far as one step from `replicas` reaches, within the bounds. The last replica goes alone: from more
    than one, it is never zero at once."""
    wanted = max(pace.least, min(pace.most, wanted))
    if pace.upscale_step is not None:
        wanted = min(wanted, replicas + pace.upscale_step)
    if pace.downscale_step is not None:
        wanted = max(wanted, replicas - pace.downscale_step)
    return max(1, wanted) if replicas > 1 else wanted


class Delays:
    """A need must last for a delay before it counts; another direction, or none, begins anew."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._direction = 0
        self._since = 0.0

    def decide(self, wanted: int, replicas: int, now: float) -> int:
        """The replicas that there should be now.

        Args:
            wanted: from `need`.
            replicas: those that there should have been until now.
            now: seconds on any clock that does not go back.
        """
        wanted = stepped(wanted, replicas, self.pace)
        if replicas == 0:
            return wanted
        direction = (wanted > replicas) - (wanted < replicas)
        if direction != self._direction:
            self._direction, self._since = direction, now
        delay = self.pace.upscale_delay_s if direction > 0 else self._down(replicas)
        if direction == 0 or now - self._since < delay:
            return max(self.pace.least, min(self.pace.most, replicas))
        self._direction = 0
        return wanted

    def _down(self, replicas: int) -> float:
        last = self.pace.scale_to_zero_delay_s
        return last if replicas == 1 and last is not None else self.pace.downscale_delay_s
