"""What can go wrong with a request to the API server; the names are those of its answers."""

# ruff: noqa: N818

from __future__ import annotations


class KubeError(Exception):
    """The API server refused a request, or did not answer; the message says which request, and what to do."""

    def __init__(self, message: str, *, status: int | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        """HTTP status code; None without an answer."""
        self.retry_after_s = retry_after_s
        """Seconds that the API server asks to wait."""


class Unreachable(KubeError):
    """No answer, or one that says that the API server cannot work just now. It may have done what was asked."""


class TooManyRequests(KubeError):
    """The API server keeps asking for patience."""


class Unauthorized(KubeError):
    """The credentials are not, or no longer, accepted."""


class Forbidden(KubeError):
    """RBAC, a quota or an admission rule is against it."""


class NotFound(KubeError):
    """The object, its namespace or the whole kind is not there."""


class Conflict(KubeError):
    """The object changed meanwhile, or another manager owns a field."""


class AlreadyExists(Conflict):
    """An object of that name is there."""


class Gone(KubeError):
    """The resourceVersion or page is too old; list again."""


class Invalid(KubeError):
    """The object is refused for what is in it."""
