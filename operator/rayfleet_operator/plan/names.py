"""Names of Serve applications: `<model>-<hash>`.

The hash covers what must restart replicas and nothing else, so a new hash is a new version beside the old one and an
in-place edit keeps the name.

Limits on a name, and where they come from:

- Serve asks only that it is unique, but writes it into actor names, into log file names
  (`replica_<app>_<deployment>_<id>.log`, at most 255 bytes on Linux) and into the `application` label of every metric.
- Kubernetes label values hold at most 63 characters of `[A-Za-z0-9_.-]` and start and end alphanumeric
  (apimachinery, `IsValidLabelValue`); DNS-1123 labels are the same in lower case without `_` and `.`.
- A ModelDeployment's name is a DNS-1123 label of at most 40 characters, unique in its namespace, as is its fleet.

40 + 1 + 10 = 51 characters, a DNS-1123 label again. The router's name has no hash, so no model can take it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

MODEL_NAME_MAX = 40
HASH_LENGTH = 10
"""40 bits: with 1000 versions of one model alive at once, a collision has a chance of 5e-7."""


def app_name(model: str, *, import_path: str, args: Mapping[str, Any], ray_actor_options: Mapping[str, Any]) -> str:
    """The application that runs `model` with exactly these arguments and resources.

    Raises ValueError for a model name over `MODEL_NAME_MAX`, which the API does not let through.
    """
    if len(model) > MODEL_NAME_MAX:
        raise ValueError(f"model name {model!r} has {len(model)} characters; at most {MODEL_NAME_MAX} are allowed")
    restarts = {"import_path": import_path, "args": args, "ray_actor_options": ray_actor_options}
    text = json.dumps(restarts, sort_keys=True, separators=(",", ":"))
    return f"{model}-{hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]}"
