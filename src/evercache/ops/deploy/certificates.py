"""Certificates for a test set-up: an authority of its own, one certificate for each host, one for clients.

Needs `cryptography` (the extra `deploy`). In production they come from whoever issues yours.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from evercache.errors import DeploymentError
from evercache.ops.deploy.description import Description, is_address
from evercache.ops.doctor.certificates import WARNING_DAYS
from evercache.ops.files import disk_errors, write_private

__all__ = ["make_certificates"]

_LIFE = timedelta(days=90)
_RENEW = timedelta(days=WARNING_DAYS)


def make_certificates(description: Description, folder: Path) -> list[Path]:
    """Make those that are missing, end soon, or name another address; returns the new files.

    `ca/` has the authority and the clients' certificate, each host's `tls/` its own. All files are readable by
    their owner only.
    """
    made: list[Path] = []
    with disk_errors(folder, "name another with --out"):
        authority = _Authority(folder / "ca", description.name, made)
        authority.issue(folder / "ca" / "client", "client", (), made)
        for host in description.hosts:
            own = folder / host.name / "tls"
            authority.issue(own / "tls", host.name, (host.address, *host.bind), made)
            if not (own / "ca.crt").exists() or (own / "ca.crt").read_text() != authority.pem:
                made.append(_put(own / "ca.crt", authority.pem))
    return made


class _Authority:
    """An authority in a folder, made if it is not there. Not for several threads."""

    def __init__(self, folder: Path, name: str, made: list[Path]) -> None:
        certificate, key = folder / "ca.crt", folder / "ca.key"
        if not certificate.exists() or not key.exists() or _ends(_load(certificate)):
            made += _create(certificate, key, f"evercache test authority of {name}")
        self.pem = certificate.read_text()
        self._certificate = _load(certificate)
        loaded = serialization.load_pem_private_key(key.read_bytes(), None)
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise DeploymentError(f"{key} is no key of this command: remove {folder}, and run it again")
        self._key = loaded

    def issue(self, path: Path, name: str, addresses: Sequence[str], made: list[Path]) -> None:
        """`path`.crt and `path`.key, unless good ones are there."""
        certificate, key = path.with_suffix(".crt"), path.with_suffix(".key")
        names = _names(addresses)
        if certificate.exists() and key.exists() and self._good(_load(certificate), names):
            return
        private = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, self._certificate.subject, private, _LIFE)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        # A replica and a sentinel are clients of other servers, with the same certificate.
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        signed = builder.add_extension(purposes, critical=False).sign(self._key, hashes.SHA256())
        made += [_put(certificate, _pem(signed)), _put(key, _pem_key(private))]

    def _good(self, certificate: x509.Certificate, names: Sequence[x509.GeneralName]) -> bool:
        try:
            certificate.verify_directly_issued_by(self._certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        try:
            found = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        except x509.ExtensionNotFound:
            found = []
        return found == list(names) and not _ends(certificate)


def _create(certificate: Path, key: Path, name: str) -> list[Path]:
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    signed = (
        _builder(name, subject, private, 4 * _LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(private, hashes.SHA256())
    )
    return [_put(certificate, _pem(signed)), _put(key, _pem_key(private))]


def _builder(
    name: str, issuer: x509.Name, private: ec.EllipticCurvePrivateKey, life: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clocks differ
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
    )


def _names(addresses: Sequence[str]) -> list[x509.GeneralName]:
    places = [one for one in dict.fromkeys(addresses) if one != "*"]
    return [x509.IPAddress(ipaddress.ip_address(one)) if is_address(one) else x509.DNSName(one) for one in places]


def _ends(certificate: x509.Certificate) -> bool:
    return certificate.not_valid_after_utc < datetime.now(UTC) + _RENEW


def _load(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise DeploymentError(f"{path} is no certificate: remove it, and run this again") from error


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _pem_key(key: ec.EllipticCurvePrivateKey) -> str:
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, plain).decode()


def _put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(path, text)
    return path
