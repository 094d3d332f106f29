"""Who is at the other end: a certificate that the system trusts, or the one whose sha256 the run's address names.

An address is `https://HOST:PORT/#PIN`, or `#PIN,invite=CODE` for who needs an invitation. A browser never sends what stands
behind the `#`. With a pin, no authority is asked and no name compared: the other end must own the key of exactly that
certificate. Plain text is for this machine alone.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import ssl
from typing import Any, Final, cast

from diffusion_at_home.errors import ConfigError, IntegrityError

CERTIFICATE_NAME: Final = "diffusion-at-home"
"""The host that each certificate of a run's own making is for: gRPC compares one, and a run may move."""

_INVITE: Final = "invite="
_PIN: Final = re.compile(r"[0-9a-f]{64}")


def split_pin(address: str) -> tuple[str, str]:
    """URL and pin of what a person typed; no pin is an empty one. Raises `ConfigError` if it is none."""
    url, _, rest = address.strip().partition("#")
    pin = rest if _INVITE not in rest else rest.partition(_INVITE)[0].removesuffix(",")
    pin = pin.strip().lower()
    if pin and not _PIN.fullmatch(pin):
        raise ConfigError(
            f"{address!r}: behind the # must be the 64 hexadecimal digits of its fingerprint: copy all of it"
        )
    return url.rstrip("/"), pin


def invite_of(address: str) -> str:
    """The code of the invitation in what a person typed; empty without one."""
    return address.strip().partition("#")[2].partition(_INVITE)[2].strip()


def with_pin(url: str, pin: str) -> str:
    """What people copy."""
    return f"{url}/#{pin}" if pin else url


def with_invite(address: str, code: str) -> str:
    """What people copy who need an invitation to the run at `address`."""
    return f"{address},{_INVITE}{code}" if "#" in address else f"{address}/#{_INVITE}{code}"


def is_loopback(host: str) -> bool:
    """Whether what is sent there never leaves this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def fingerprint(certificate_der: bytes) -> str:
    """The pin of a certificate."""
    return hashlib.sha256(certificate_der).hexdigest()


def check_pin(certificate_pem: str, pin: str) -> None:
    """Raise `IntegrityError` unless `certificate_pem` is the certificate of `pin`."""
    try:
        found = fingerprint(ssl.PEM_cert_to_DER_cert(certificate_pem))
    except ValueError:
        found = "none"
    _check(found, pin)


def pinned_context(pin: str) -> ssl.SSLContext:
    """For clients: a handshake with a certificate of another pin raises `IntegrityError`."""

    class Socket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            try:
                _check(fingerprint(self.getpeercert(binary_form=True) or b""), pin)
            except IntegrityError:
                self.close()
                raise

    class Object(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            _check(fingerprint(self.getpeercert(binary_form=True) or b""), pin)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # a handshake proves the key; whose it must be is compared above
    untyped = cast("Any", context)  # documented attributes that the stubs take for constants
    untyped.sslsocket_class, untyped.sslobject_class = Socket, Object
    return context


def _check(found: str, pin: str) -> None:
    if found != pin:
        raise IntegrityError(
            f"the other end shows the certificate {found[:16]}... instead of {pin[:16]}...: somebody stands between, or the "
            "run has a new one: take its address anew from where you trust it"
        )
