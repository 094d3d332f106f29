"""Who is at the other end: pins, and what may be in plain text."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from coordinator.certificate import Certificate, choose_certificate
from diffusion_at_home.config.run import ServerSection, Tls
from diffusion_at_home.errors import ConfigError, IntegrityError
from diffusion_at_home.tls import check_pin, is_loopback, pinned_context, split_pin, with_pin
from worker.run_address import RunAddress

PIN = "0123456789abcdef" * 4


def own(folder: Path) -> Certificate:
    folder.mkdir(parents=True, exist_ok=True)
    certificate = choose_certificate(ServerSection(tls=Tls.OWN), folder / "tls")
    assert certificate is not None
    return certificate


@contextmanager
def server(certificate: Certificate) -> Iterator[int]:
    """The port of something that shows `certificate` and says hello."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.chain, certificate.key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                plain, _ = listener.accept()
                with suppress(OSError), context.wrap_socket(plain, server_side=True) as secured:
                    secured.sendall(b"hello")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_an_address_keeps_its_pin() -> None:
    address = RunAddress.parse(f"https://run.example:8400/#{PIN.upper()} ")
    assert (address.url, address.pin) == ("https://run.example:8400", PIN)
    assert RunAddress.parse(str(address)) == address
    assert split_pin(with_pin("https://run.example", "")) == ("https://run.example", "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("https://run.example/#0123", "copy all of it"),
        ("http://run.example:8400", "in plain text, which anybody on the way can read"),
        ("http://192.168.0.7:8400", "in plain text"),
        (f"http://127.0.0.1/#{PIN}", "in plain text"),
        ("ftp://run.example", "is not an address"),
    ],
)
def test_what_is_no_address_to_trust_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RunAddress.parse(text)


@pytest.mark.parametrize(
    ("host", "here"),
    [("localhost", True), ("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("[::1]", True)]
    + [(host, False) for host in ("0.0.0.0", "::", "192.168.0.1", "localhost.example", "127.0.0.1.example", "")],
)
def test_only_this_machine_is_spoken_to_in_plain_text(host: str, here: bool) -> None:
    assert is_loopback(host) is here


def test_a_runs_own_certificate_is_made_once_and_its_key_is_its_owners(tmp_path: Path) -> None:
    certificate = own(tmp_path)
    assert own(tmp_path) == certificate
    assert certificate.key.stat().st_mode & 0o077 == 0
    assert certificate.key.parent.stat().st_mode & 0o077 == 0
    check_pin(certificate.own_pem, certificate.pin)
    with pytest.raises(IntegrityError, match="instead of 0123456789abcdef"):
        check_pin(certificate.own_pem, PIN)
    with pytest.raises(IntegrityError):
        check_pin("no certificate", certificate.pin)


def test_only_the_pinned_certificate_is_spoken_to(tmp_path: Path) -> None:
    certificate, another = own(tmp_path / "run"), own(tmp_path / "thief")
    with server(certificate) as port:
        with socket.create_connection(("127.0.0.1", port)) as plain:
            secured = pinned_context(certificate.pin).wrap_socket(plain, server_hostname="anything")
            assert secured.recv(5) == b"hello"
            secured.close()
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            pytest.raises(IntegrityError, match="somebody stands"),
        ):
            pinned_context(another.pin).wrap_socket(plain)
        with socket.create_connection(("127.0.0.1", port)) as plain, pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")  # the defence of others


def test_the_pin_is_compared_too_where_tls_goes_through_a_buffer(tmp_path: Path) -> None:
    certificate, another = own(tmp_path / "run"), own(tmp_path / "thief")
    with server(certificate) as port, socket.create_connection(("127.0.0.1", port)) as plain:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        secured = pinned_context(another.pin).wrap_bio(incoming, outgoing)
        with pytest.raises(IntegrityError):
            shake_hands(secured, plain, incoming, outgoing)


def shake_hands(secured: ssl.SSLObject, plain: socket.socket, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
    while True:
        try:
            return secured.do_handshake()
        except ssl.SSLWantReadError:
            plain.sendall(outgoing.read())
            incoming.write(plain.recv(65536))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_plain_text_is_the_default_on_this_machine_alone(tmp_path: Path, host: str) -> None:
    assert choose_certificate(ServerSection(host=host), tmp_path / "tls") is None
    assert choose_certificate(ServerSection(host=host, tls=Tls.OWN), tmp_path / "tls") is not None
    assert choose_certificate(ServerSection(host="0.0.0.0"), tmp_path / "tls") is not None


def test_what_is_no_pair_is_named_with_the_keys_to_change(tmp_path: Path) -> None:
    certificate, another = own(tmp_path / "run"), own(tmp_path / "another")
    files = ServerSection(tls=Tls.FILES, certificate=str(certificate.chain), key=str(certificate.key))
    chosen = choose_certificate(files, tmp_path)
    assert chosen is not None
    assert (chosen.pin, chosen.own_pem) == ("", "")
    for key in (another.key, tmp_path / "none.pem"):
        with pytest.raises(ConfigError, match=r"server\.certificate and server\.key"):
            choose_certificate(files.model_copy(update={"key": str(key)}), tmp_path)
    certificate.chain.write_text("rubbish")
    with pytest.raises(ConfigError, match="is damaged: restore it from a backup"):
        own(tmp_path / "run")
