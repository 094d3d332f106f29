"""What a form sends: bounded before it is read, and from our own pages alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request

_MOST_BYTES: Final = 16 * 1024
_MOST_FIELDS: Final = 20


class Refusal(Exception):
    """What was sent is not taken: a status, and one sentence for people."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def check_origin(headers: Mapping[str, str], *, scheme: str) -> None:
    """Raise `Refusal` unless a page of this very address sent the request, as the browser says, which no page can forge.

    Origin, or, where a browser withholds that, Sec-Fetch-Site (W3C Fetch Metadata).
    """
    origin, host = headers.get("origin", "null"), headers.get("host", "")
    if origin != "null":
        if origin.lower() == f"{scheme}://{host}".lower():
            return
    elif headers.get("sec-fetch-site") == "same-origin":
        return
    raise Refusal(
        403, "this was not sent by a page of this address: open the page anew, and pass its host on unchanged"
    )


async def read_form(request: Request) -> dict[str, str]:
    """The fields by name, the last of each. Raises `Refusal` if it is no form, or too much of one."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise Refusal(415, "that is no form")
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > _MOST_BYTES:
            raise Refusal(413, "the form is too long")
    try:
        pairs = parse_qsl(
            data.decode("utf-8"), keep_blank_values=True, strict_parsing=bool(data), max_num_fields=_MOST_FIELDS
        )
    except ValueError:
        raise Refusal(400, "the form cannot be read") from None
    return dict(pairs)
