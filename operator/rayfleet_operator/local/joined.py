"""A Ray that was there before: `up` uses it, and takes back only what it deployed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from rayfleet_operator.api.problems import harmless, printable
from rayfleet_operator.local.cluster import ClusterError
from rayfleet_operator.plan import serve_config
from rayfleet_operator.plan.live import DELETING, live_apps
from rayfleet_operator.plan.observed import ObservedApp, ObservedFleet
from rayfleet_operator.plan.serve_config import ServeOptions
from rayfleet_operator.ray.serve import ServeClient, ServeError
from rayfleet_serving.config import ROUTER_APP, ROUTER_IMPORT_PATH

TAKE_BACK_S = 15.0


class JoinedRay:
    """`dashboard` is the URL of its dashboard; the token is looked for where Ray's own clients look."""

    def __init__(self, dashboard: str, options: ServeOptions, environ: Mapping[str, str]) -> None:
        self.dashboard = dashboard.rstrip("/")
        self.token_path, self.token = find_token(environ)
        self._options = options
        self._joined = False

    async def ready(self) -> None:
        """Raises ClusterError when it does not answer, or runs applications that are not rayfleet's."""
        async with ServeClient(self.dashboard, token=self.token) as serve:
            try:
                apps = await serve.applications()
            except ServeError as error:
                raise ClusterError(
                    f"{harmless(str(error))}. --address is the URL of Ray's dashboard, like http://127.0.0.1:8265; "
                    "a cluster that asks for a token is given the one in RAY_AUTH_TOKEN or in the file "
                    "RAY_AUTH_TOKEN_PATH"
                ) from error
        if foreign := sorted(set(apps) - _ours(apps)):
            names = ", ".join(map(printable, foreign))
            raise ClusterError(
                f"Serve at {self.dashboard} runs applications that are not rayfleet's: {names}. "
                "A new config could end them, so nothing was changed; leave --address out for a Ray of its own"
            )
        self._joined = True

    async def ended(self) -> str:
        """Never returns: whether it answers shows in the table."""
        await asyncio.Event().wait()
        return ""

    async def stop(self) -> None:
        """Take back the models and the router; where nothing else is left, Serve ends too. Ray itself goes on.

        Raises ServeError or TimeoutError when that did not work.
        """
        if not self._joined:
            return
        async with asyncio.timeout(TAKE_BACK_S), ServeClient(self.dashboard, token=self.token) as serve:
            apps = await serve.applications()
            others = [app for name, app in apps.items() if name not in _ours(apps)]
            if others:
                # Applications that were deployed from Python have no entry, and no config touches them.
                entries = [app.entry for app in others if app.entry]
                await serve.put(serve_config.canonical(serve_config.serve_config(entries, self._options)))
            else:
                await serve.delete()

    def hurry(self) -> None:
        """There is nothing to hurry: what `stop` does is bounded."""


def _ours(apps: Mapping[str, ObservedApp]) -> set[str]:
    ours = set(live_apps(ObservedFleet(apps=apps)))
    router = apps.get(ROUTER_APP)
    if router is not None and router.entry.get("import_path") == ROUTER_IMPORT_PATH:
        ours.add(ROUTER_APP)
    # Serve shows no entry of an application that it is ending.
    return ours | {name for name, app in apps.items() if app.status == DELETING}


def find_token(environ: Mapping[str, str]) -> tuple[Path | None, str | None]:
    """The token's file and the token: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, or Ray's default file."""
    if token := environ.get("RAY_AUTH_TOKEN"):
        return None, token.strip()
    path = Path(environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        return path, path.read_text().strip()
    except OSError:
        return None, None
