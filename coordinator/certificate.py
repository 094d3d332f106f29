"""The certificate that the coordinator shows: of the run's own making, or of the operator's authority.

A run's own one is made once, with its key beside it, and moves with the run: volunteers know it by its fingerprint, so it
names no host and has no end that anybody would meet.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from coordinator.secret_file import write_secret
from diffusion_at_home.config.run import ServerSection, Tls
from diffusion_at_home.errors import ConfigError, storage_errors
from diffusion_at_home.tls import CERTIFICATE_NAME, fingerprint, is_loopback

_YEARS: Final = 50


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key."""

    chain: Path
    """PEM, its own one first."""
    key: Path
    """PEM."""
    pin: str
    """What its fingerprint is if that is in the run's address, else empty."""

    @property
    def own_pem(self) -> str:
        """The certificate itself if it is pinned, else nothing."""
        return self.chain.read_text() if self.pin else ""


def choose_certificate(server: ServerSection, own: Path) -> Certificate | None:
    """What to show where `server` listens, None for plain text; the run's own one lies in the folder `own`, made at first use.

    Raises `ConfigError` if there is none, or plain text would leave this machine; `StorageError`.
    """
    match server.tls:
        case Tls.AUTO:
            return None if is_loopback(server.host) else _own(own)
        case Tls.OWN:
            return _own(own)
        case Tls.FILES:
            return _checked(Certificate(Path(server.certificate), Path(server.key), pin=""))
        case Tls.PROXY:
            return None


def _own(folder: Path) -> Certificate:
    chain, key = folder / "certificate.pem", folder / "key.pem"
    if not chain.is_file():
        with storage_errors(folder):
            _make(folder, chain, key)
    try:
        pin = fingerprint(ssl.PEM_cert_to_DER_cert(chain.read_text()))
    except (OSError, ValueError):
        raise ConfigError(
            f"{chain} is damaged: restore it from a backup; without it, volunteers must join anew"
        ) from None
    return _checked(Certificate(chain, key, pin))


def _make(folder: Path, chain: Path, key: Path) -> None:
    private, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, CERTIFICATE_NAME)]),
    )
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=366))  # a volunteer's clock may be late
        .not_valid_after(now + timedelta(days=365 * _YEARS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(CERTIFICATE_NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, hashes.SHA256())
    )
    folder.mkdir(mode=0o700, exist_ok=True)
    write_secret(
        key,
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
    write_secret(chain, certificate.public_bytes(serialization.Encoding.PEM))  # last: it makes the pair complete


def _checked(certificate: Certificate) -> Certificate:
    """Found to be a pair. Raises `ConfigError`."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate.chain, certificate.key)
    except OSError as error:  # which an SSLError is
        raise ConfigError(
            f"{certificate.chain} and {certificate.key} are not a certificate and its key ({error.strerror or error}): name both "
            "in server.certificate and server.key, or set server.tls to 'own'"
        ) from None
    return certificate


@dataclass(frozen=True, slots=True)
class Validity:
    """What a certificate says of itself."""

    until: datetime
    names: tuple[str, ...]
    """Hosts, as they are written: one may begin with `*.`, for one label."""

    def names_host(self, host: str) -> bool:
        """Whether it is for `host`."""
        wildcard = f"*.{host.partition('.')[2]}"
        return any(name.lower() in {host.lower(), wildcard.lower()} for name in self.names)


def read_validity(chain: Path) -> Validity:
    """Of the first certificate in `chain`. Raises `ConfigError`."""
    try:
        certificate = x509.load_pem_x509_certificate(chain.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return Validity(certificate.not_valid_after_utc, ())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{chain} is no certificate that can be read ({type(error).__name__}): restore it") from None
    hosts = names.get_values_for_type(x509.DNSName)
    addresses = (str(address) for address in names.get_values_for_type(x509.IPAddress))
    return Validity(certificate.not_valid_after_utc, (*hosts, *addresses))
