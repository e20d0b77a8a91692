"""Why a model's URI gave no version: a `reason` for conditions, a message for people.

A message says what was asked, where, and what would be right. It never holds a password, a token or a signed URL, nor
anything a terminal would obey: part of it may be a server's own words.
"""

# ruff: noqa: N818 - a class is named as its reason, which people read

from __future__ import annotations

from typing import ClassVar

from rayfleet_operator.api.problems import harmless


class RegistryError(Exception):
    """Base of every error of this package."""

    reason: ClassVar[str]
    """CamelCase word for a condition's `reason`."""

    def __init__(self, message: str) -> None:
        self.message = harmless(message)
        super().__init__(self.message)


class InvalidUri(RegistryError):
    """The model's URI or the tracking URI is in no form known here."""

    reason = "InvalidUri"


class TrackingUriMissing(RegistryError):
    """The URI needs an MLflow server, and none is named."""

    reason = "TrackingUriMissing"


class ModelNotFound(RegistryError):
    """No registered or logged model of this name or id."""

    reason = "ModelNotFound"


class VersionNotFound(RegistryError):
    """The model exists and has no such version, or none at all."""

    reason = "VersionNotFound"


class VersionDeleted(RegistryError):
    """The URI meant this version before, and it was deleted since."""

    reason = "VersionDeleted"


class AliasNotFound(RegistryError):
    """The model exists and has no such alias."""

    reason = "AliasNotFound"


class StageEmpty(RegistryError):
    """The model exists and has no version in this stage."""

    reason = "StageEmpty"


class RunNotFound(RegistryError):
    """No such run, or a deleted one."""

    reason = "RunNotFound"


class ArtifactNotFound(RegistryError):
    """Nothing at this place that is an MLflow model."""

    reason = "ArtifactNotFound"


class ArtifactRefused(RegistryError):
    """The place holds a model that has no safe digest: links out of its folder, devices, too many objects."""

    reason = "ArtifactRefused"


class VersionNotReady(RegistryError):
    """The version exists and its files are not complete yet, or never will be."""

    reason = "VersionNotReady"


class NotAllowed(RegistryError):
    """Wrong or missing credentials, a missing permission, or a server that refuses this host name."""

    reason = "NotAllowed"


class CredentialsMissing(RegistryError):
    """A Secret or ConfigMap that the model names is not there, or holds nothing that can be used."""

    reason = "CredentialsMissing"


class RegistryUnreachable(RegistryError):
    """No useful answer in time: refused, unknown host, silence, an error of the server, or some other server."""

    reason = "RegistryUnreachable"

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """Seconds for which the server asks to be left alone; 0 if it does not say how many; None if it asks for
        nothing."""


class ClientMissing(RegistryError):
    """A package that this kind of URI needs is not installed."""

    reason = "ClientMissing"


class ResolverFailed(RegistryError):
    """Something went wrong here that nobody foresaw: a mistake in rayfleet, or an answer it never met."""

    reason = "ResolverFailed"
