"""`make demo`. Exits with 0 when every number agrees, with 1 and a reason when not."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

from digits.progress import say

QUIET = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
}
"""MLflow's own progress would hide the demo's."""


def main() -> int:
    os.environ.update(QUIET)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    say("Importing torch and MLflow")
    from digits import story

    with tempfile.TemporaryDirectory(prefix="rayfleet-", ignore_cleanup_errors=True) as folder:
        try:
            story.tell(Path(folder))
        except (story.DemoError, TimeoutError) as error:
            say(f"FAILED: {error}")
            return 1
        except KeyboardInterrupt:
            say("Interrupted; nothing is left running")
            return 128 + signal.SIGINT
    say("Done: all numbers agree, no request failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
