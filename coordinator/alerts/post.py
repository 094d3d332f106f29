"""One message on its way: bounded in time, followed nowhere, answered with yes, not now, or no."""

from __future__ import annotations

from typing import Final

import httpx2

from coordinator.alerts.target import Target
from diffusion_at_home import __version__
from diffusion_at_home.errors import ConfigError, RetryCall, Unreachable

_TIMEOUT: Final = httpx2.Timeout(10.0)
_HEADERS: Final = {"Content-Type": "application/json", "User-Agent": f"diffusion-at-home/{__version__}"}


def post(target: Target, body: bytes) -> None:
    """Send `body`. Raises `RetryCall` if it may go through later, `ConfigError` if it never will; neither has the address."""
    try:
        with (
            httpx2.Client(timeout=_TIMEOUT, follow_redirects=False) as http,
            http.stream("POST", target.webhook_url, content=body, headers=_HEADERS) as response,
        ):
            status = response.status_code  # the answer's body is nobody's concern
    except (httpx2.InvalidURL, ValueError) as error:
        raise ConfigError(f"the webhook's address is none ({type(error).__name__}): give it anew") from None
    except (httpx2.HTTPError, OSError) as error:
        raise Unreachable(f"the webhook at {target.host} does not answer ({type(error).__name__})") from None
    if 200 <= status < 300:
        return
    if status == 429 or status >= 500:
        raise RetryCall(f"the webhook at {target.host} answers HTTP {status}")
    if 300 <= status < 400:
        raise ConfigError(
            f"the webhook at {target.host} points elsewhere (HTTP {status}): give the address that it names"
        )
    raise ConfigError(f"the webhook at {target.host} refuses the message (HTTP {status}): give its address anew")
