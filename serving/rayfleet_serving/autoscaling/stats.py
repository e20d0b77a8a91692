"""Names of what replicas say through `record_autoscaling_stats`, and the policy reads."""

from __future__ import annotations

WANTED = "rayfleet_wanted"
"""Replicas that there must be, before bounds, steps and delays."""
STAYS = "rayfleet_stays"
"""1 where there must not be fewer than there are to be already, whatever replicas want; else 0."""
STEP_UP = "rayfleet_step_up"
"""Most replicas started at a time; 0 for no such limit."""
STEP_DOWN = "rayfleet_step_down"
"""Most replicas stopped at a time; 0 for no such limit."""

BUSY = "rayfleet_busy"
"""Share of the time for which a router's event loop works."""
ONGOING = "rayfleet_ongoing"
"""Requests of a router that wait or are under way."""
