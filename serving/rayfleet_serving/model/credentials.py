"""A model's own credentials: files that its replicas put into their own process's environment.

The models of a fleet share its pods, so the pods' environment can be no model's own. On Kubernetes the operator keeps
one file for each credential, `<model>.<variable>`, and `<model>.ca.crt` with the certificates to trust, in a Secret
that all the pods mount. Only MLflow's and the object stores' variables are taken from there.

The files are read when a replica starts and never again: who rotates credentials restarts nothing.
"""

from __future__ import annotations

import logging
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from rayfleet_serving.config import CA_FILE, CREDENTIAL, CREDENTIALS_DIR_VARIABLE, ModelArgs, credential_file
from rayfleet_serving.model.errors import LoadError

logger = logging.getLogger(__name__)

WAIT_S = 120.0
"""The kubelet brings a changed Secret to pods that run only after up to 90 s."""
LOOK_S = 0.5

_SECRET = re.compile(
    r"(MLFLOW)_TRACKING_(USERNAME|PASSWORD|TOKEN|AUTH|AWS_SIGV4)"
    r"|(AWS|AZURE|GOOGLE)_\w*(KEY|KEY_ID|TOKEN|TOKEN_FILE|SECRET|PROFILE|ROLE_ARN|CREDENTIALS|CREDENTIALS_\w+_URI"
    r"|CLIENT_ID|CONNECTION_STRING|SERVICE_ACCOUNT|SERVICE_ACCOUNT_PATH|SKIP_SIGNATURE)"
)
"""Variables that say who asks; the others of the same prefix say where, as a region does."""


@dataclass(frozen=True)
class OwnCredentials:
    """One model's files in `folder`; nothing at all without a folder."""

    model: str
    tracking_uri: str | None
    folder: Path | None

    @classmethod
    def of(cls, args: ModelArgs) -> OwnCredentials:
        """Those of the model of `args`, if it has any and this process is where they come as files."""
        configured = os.environ.get(CREDENTIALS_DIR_VARIABLE) if args.credentials else None
        return cls(args.name, args.tracking_uri, Path(configured) if configured else None)

    def take(self) -> bool:
        """Puts what is there into the process's environment. Returns whether that is how it should be.

        Where the model brings a credential, the pod's own of the same kind count no more: one's name with another's
        password would be nobody's.
        """
        if self.folder is None:
            return True
        values = _read(self.folder, self.model)
        brought = {_kind(name) for name in values} - {None}
        for name in list(os.environ):
            if _kind(name) in brought:
                del os.environ[name]
        if "MLFLOW" in brought and self.tracking_uri is not None:
            # What the model brings belongs to its own server, and not to the one that its pod asks by default.
            os.environ["MLFLOW_TRACKING_URI"] = self.tracking_uri
        if "MLFLOW_TRACKING_SERVER_CERT_PATH" in values:
            # MLflow's client refuses both at once, and the certificates are the safer answer.
            os.environ.pop("MLFLOW_TRACKING_INSECURE_TLS", None)
            values.pop("MLFLOW_TRACKING_INSECURE_TLS", None)
        os.environ.update(values)
        return bool(values)

    def require(self, within_s: float = WAIT_S) -> None:
        """As `take`, waiting for the files up to `within_s` seconds.

        Raises:
            LoadError: CredentialsMissing.
        """
        deadline = time.monotonic() + within_s
        if self.take():
            return
        logger.warning("Waiting up to %g s for the credentials of %s in %s.", within_s, self.model, self.folder)
        while not self.take():
            if time.monotonic() >= deadline:
                raise LoadError(
                    "CredentialsMissing",
                    f"{self.folder} holds no file {credential_file(self.model, '…')} after {within_s:g} s. The "
                    "operator makes these files of what spec.model.registry names, in the Secret <fleet>-credentials "
                    "that the pod mounts: see whether it is there, and what the conditions of the ModelDeployment "
                    f"{self.model} say",
                )
            time.sleep(LOOK_S)


def _read(mounted: Path, model: str) -> dict[str, str]:
    """By variable."""
    values: dict[str, str] = {}
    try:
        # The kubelet changes all files at once by pointing this link to another folder.
        folder = (mounted / "..data").resolve() if (mounted / "..data").exists() else mounted
        for file in folder.glob(credential_file(model, "*")):
            key = file.name.removeprefix(credential_file(model, ""))
            if CREDENTIAL.fullmatch(key):
                value = os.fsdecode(file.read_bytes()).rstrip("\r\n")  # what `echo` wrote ends in a newline
                if key == "GOOGLE_APPLICATION_CREDENTIALS" and value.lstrip().startswith("{"):
                    value = str(mounted / file.name)  # the variable names a file: this one
                values[key] = value
            elif key != CA_FILE:
                logger.warning("Ignored %s of the credentials of %s: it is no variable of theirs.", key, model)
        if (folder / credential_file(model, CA_FILE)).exists():
            values["MLFLOW_TRACKING_SERVER_CERT_PATH"] = str(mounted / credential_file(model, CA_FILE))
    except FileNotFoundError:
        return {}  # changed this very moment
    return {name: value for name, value in values.items() if "\0" not in value}


def _kind(name: str) -> str | None:
    """MLFLOW, AWS, AZURE or GOOGLE where the variable says who asks."""
    return name.partition("_")[0] if _SECRET.fullmatch(name) else None
