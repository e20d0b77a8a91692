"""A certificate authority of its own for each control plane, and kubeconfigs for those who hold its certificates."""

from __future__ import annotations

import base64
import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID = timedelta(days=3650)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Issues client and server certificates into `folder`; what is there already is used again."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.pair = Pair(folder / "ca.crt", folder / "ca.key")
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        if not self.pair.certificate.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = (
                _builder(self._name, self._name, key.public_key())
                .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
                .sign(key, hashes.SHA256())
            )
            _write(self.pair.key, _pem(key))
            _write(self.pair.certificate, certificate.public_bytes(serialization.Encoding.PEM))

    @cached_property
    def _key(self) -> ec.EllipticCurvePrivateKey:
        key = serialization.load_pem_private_key(self.pair.key.read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key

    def issue(self, file: str, user: str, groups: Iterable[str] = (), hosts: Iterable[str] = ()) -> Pair:
        """A certificate for a user in groups (Kubernetes reads CN and O), valid for servers at `hosts` too."""
        pair = Pair(self.folder / f"{file}.crt", self.folder / f"{file}.key")
        if pair.certificate.exists():
            return pair
        key = ec.generate_private_key(ec.SECP256R1())
        subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject.append(x509.NameAttribute(NameOID.COMMON_NAME, user))
        usage = [ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = _builder(x509.Name(subject), self._name, key.public_key())
        if names := [_host(host) for host in hosts]:
            usage.append(ExtendedKeyUsageOID.SERVER_AUTH)
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        _write(pair.key, _pem(key))
        _write(pair.certificate, builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return pair

    def signing_key(self, file: str) -> Pair:
        """An RSA key to sign service accounts' tokens with; `certificate` is its public half."""
        pair = Pair(self.folder / f"{file}.pub", self.folder / f"{file}.key")
        if not pair.certificate.exists():
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            _write(pair.key, _pem(key))
            form = serialization.PublicFormat.SubjectPublicKeyInfo
            _write(pair.certificate, key.public_key().public_bytes(serialization.Encoding.PEM, form))
        return pair

    def kubeconfig(self, path: Path, server: str, user: str, credentials: Pair | str) -> Path:
        """Write a kubeconfig for the holder of a certificate or a bearer token."""
        if isinstance(credentials, Pair):
            login = {
                "client-certificate-data": _base64(credentials.certificate),
                "client-key-data": _base64(credentials.key),
            }
        else:
            login = {"token": credentials}
        cluster = {"server": server, "certificate-authority-data": _base64(self.pair.certificate)}
        document: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "rayfleet-tests", "cluster": cluster}],
            "users": [{"name": user, "user": login}],
            "contexts": [{"name": "rayfleet-tests", "context": {"cluster": "rayfleet-tests", "user": user}}],
            "current-context": "rayfleet-tests",
        }
        _write(path, yaml.safe_dump(document).encode())
        return path


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + VALID)
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def _write(path: Path, content: bytes) -> None:
    """Only the owner may read it, and a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    new.replace(path)
