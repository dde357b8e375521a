"""The certificates that servers present, that of the client, and the authorities that it trusts: names and dates.

The standard library shows the fields of verified certificates only. So each certificate that was presented is
trusted for one more handshake, whatever its dates are.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

from evercache.clock import monotonic
from evercache.errors import UnavailableError
from evercache.net.names import resolver
from evercache.net.sockets import known_records, new_socket
from evercache.net.types import TLSOptions
from evercache.ops.doctor.facts import Certificate
from evercache.protocol.types import Address

__all__ = ["CRITICAL_DAYS", "WARNING_DAYS", "authorities_of", "own_certificate", "presented"]

#: Days before the end of a certificate at which the doctor warns, and at which it is critical.
WARNING_DAYS: Final = 30
CRITICAL_DAYS: Final = 7
#: X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which the standard library does not name.
_ANY_TIME: Final = 0x200000
#: X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH.
_OTHER_NAME: Final = frozenset({62, 64})

#: What a handshake leads to.
_Ask = Callable[[ssl.SSLSocket], Any]


def presented(address: Address, options: TLSOptions, end: float) -> Certificate | str:
    """The certificate of a server, or why it could not be seen. `end`: monotonic seconds."""

    def shake(context: ssl.SSLContext, ask: _Ask) -> Any:
        if options.certfile is not None:
            context.load_cert_chain(options.certfile, options.keyfile, password="")
        records = known_records(address) or resolver.records(address, end)
        with new_socket(records[0][0]) as plain:
            plain.settimeout(max(0.001, end - monotonic()))
            plain.connect(records[0][1])
            with context.wrap_socket(plain, server_hostname=address.host) as secure:
                found = ask(secure)
                with suppress(OSError):
                    # A server in protected mode counts a client that has left already as rejected.
                    secure.sendall(b"PING\r\n")
                    secure.recv(1)
                return found

    try:
        trusting = _client()
        trusting.verify_mode = ssl.CERT_NONE
        data = shake(trusting, lambda secure: secure.getpeercert(binary_form=True))
        context = _client()
        _trust_only(context, cadata=data)
        context.check_hostname = options.check_hostname and options.verify
        try:
            return _certificate(shake(context, lambda secure: secure.getpeercert()))
        except ssl.SSLCertVerificationError as error:
            if error.verify_code not in _OTHER_NAME:
                raise
        context.check_hostname = False
        return _certificate(shake(context, lambda secure: secure.getpeercert()), fits=False)
    except (OSError, ValueError, UnavailableError) as error:
        return f"its certificate: {str(error)[:160] or type(error).__name__}"


def own_certificate(options: TLSOptions) -> Certificate | None:
    """The certificate by which the client logs in; None where it has none that can be read."""
    if options.certfile is None:
        return None
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), _client()
    client.verify_mode = ssl.CERT_NONE
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        for context in (server, client):
            context.load_cert_chain(options.certfile, options.keyfile, password="")
        _trust_only(server, cafile=options.certfile)
        server.verify_mode = ssl.CERT_REQUIRED
        ends = client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)
        for _ in range(3):
            for end in ends:
                _step(end)
        return _certificate(ends[1].getpeercert())
    except (OSError, ValueError):
        return None


def _step(end: ssl.SSLObject) -> None:
    with suppress(ssl.SSLWantReadError):
        end.do_handshake()


def authorities_of(options: TLSOptions) -> tuple[Certificate, ...]:
    """The authorities in the file that the URL names; none where the system's are trusted."""
    if options.ca_certs is None or not options.verify:
        return ()
    try:
        context = _client()
        context.load_verify_locations(cafile=options.ca_certs)
        return tuple(_certificate(one) for one in context.get_ca_certs())
    except (OSError, ValueError):
        return ()


def _client() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return context


def _trust_only(context: ssl.SSLContext, **what: Any) -> None:
    """Trust this certificate, which may be any, at any time."""
    context.load_verify_locations(**what)
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags = ssl.VerifyFlags(context.verify_flags | _ANY_TIME)


def _certificate(fields: Any, *, fits: bool = True) -> Certificate:
    if not fields:
        raise ValueError("it shows none")
    return Certificate(
        name=_title(fields["subject"]),
        issuer=_title(fields["issuer"]),
        begins=ssl.cert_time_to_seconds(fields["notBefore"]),
        ends=ssl.cert_time_to_seconds(fields["notAfter"]),
        names=tuple(str(value) for _, value in fields.get("subjectAltName", ())),
        fits=fits,
    )


def _title(parts: Iterable[Iterable[tuple[str, str]]]) -> str:
    """A subject or issuer as one text."""
    return ", ".join(f"{name}={value}" for part in parts for name, value in part)
