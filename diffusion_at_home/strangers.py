"""Whom a machine may ask for bytes because somebody else said so: a mirror of a list, or where an answer leads on to.

What comes is compared with its sha256, so a stranger can be slow, silent or wrong, and nothing more. What is left to keep from it
is where the question goes: not in plain text over a line, and not to what only this machine or its network can reach.
"""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from diffusion_at_home.tls import is_loopback

FROM_HERE: Final = "from=here"
"""Query of a blob's URL: the run is asked to send the bytes itself, and not to lead on."""


def may_ask(url: str, said_by: str) -> bool:
    """Whether `url` may be asked for bytes because what serves the URL `said_by` said so.

    It must be https, or plain text on this machine if that is, too. Literal addresses that are not public are for who has one
    himself; where a name leads is known only once it is connected to: see `is_public`.
    """
    try:
        parts, by = urlsplit(url), urlsplit(said_by)
        host, by_host, _ = parts.hostname or "", by.hostname or "", parts.port
    except ValueError:
        return False
    if not host or parts.username is not None or parts.password is not None or parts.fragment:
        return False
    if parts.scheme == "http":
        return is_loopback(host) and is_loopback(by_host)
    return parts.scheme == "https" and (is_private_place(said_by) or not _is_private_name(host))


def is_private_place(url: str) -> bool:
    """Whether `url` names this machine or an address of a network of its own: what it leads to may be there, too."""
    return _is_private_name(urlsplit(url).hostname or "")


def is_public(address: str) -> bool:
    """Whether an IP address is one that everybody on the Internet reaches."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip.sixtofour or ip
    return ip.is_global and not ip.is_multicast


def _is_private_name(host: str) -> bool:
    if is_loopback(host):
        return True
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        # A bare word is looked up in one's own network; and an IPv4 address has other spellings, as 0x7f.1 or 2130706433.
        last = host.rstrip(".").rpartition(".")[2]
        return "." not in host.rstrip(".") or last[:1].isdigit() or last == "localhost"
    return not is_public(host)
