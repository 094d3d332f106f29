"""Which HTTP proxy leads to an address: one answer for downloads and for the worker protocol.

HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, in capitals or not, and on Windows and macOS the system's own settings.
"""

from __future__ import annotations

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def proxy_for(url: str) -> str | None:
    """The URL of the proxy for `url`, None if there is none."""
    parts = urlsplit(url)
    proxies = getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found or not parts.hostname or proxy_bypass(parts.hostname):
        return None
    return found if "://" in found else f"http://{found}"
