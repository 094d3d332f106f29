"""What a run publishes of its leases, fetched and checked: never more than a bound, and only of the run that was asked."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Final, TypeVar

import httpx2
from pydantic import ConfigDict, Field, ValidationError

from diffusion_at_home.audit.records import (
    MAX_PAGE_BYTES,
    LeasePage,
    LeaseRecord,
    RoundPage,
    VersionRecord,
    lease_path,
    round_path,
    version_path,
)
from diffusion_at_home.config.toml import Section, first_mistake
from diffusion_at_home.errors import Busy, ConfigError, RetryCall, Unreachable
from worker.http_line import limits
from worker.run_address import HTTP_BUSY, RunAddress, retry_after

_WHOLE: Final = timedelta(seconds=60)
"""For one page, however it drips."""

_MAX_STATUS_BYTES: Final = 16 * 2**20
_MAX_PAGES: Final = 400
"""Of one round, which is a hundred thousand leases."""

PageT = TypeVar("PageT", bound=Section)


class _Status(Section):
    """What is wanted of /status.json."""

    model_config: ClassVar[ConfigDict] = ConfigDict(**{**Section.model_config, "extra": "ignore"})

    version: Annotated[int, Field(ge=0, lt=2**63)]


class PublicRecords:
    """Of the run `run_id` at `address`. Each call is one try: raises `RetryCall`, and `ConfigError` for what is no record."""

    def __init__(self, address: RunAddress, http: httpx2.Client, run_id: str) -> None:
        self._address = address
        self._http = http
        self._run_id = run_id
        self.software = ""
        """Version of the coordinator's code, once a lease was asked for."""

    def closed_rounds(self) -> int:
        """The number of the last round that is closed; 0 before the first."""
        status = self._page("/status.json", _Status, _MAX_STATUS_BYTES)
        return 0 if status is None else status.version

    def round(self, number: int) -> Iterator[LeaseRecord]:
        """What was handed in for a closed round, by lease. Raises `ConfigError` if it is not closed."""
        after = 0
        for _ in range(_MAX_PAGES):
            page = self._page(round_path(number, after), RoundPage)
            if page is None:
                raise ConfigError(f"{self._address.url} has no closed round {number}: name an earlier one with --round")
            self._check(page.run_id)
            self.software = page.software
            numbers = [record.lease_id for record in page.leases]
            ordered = [after, *numbers]
            if any(record.round != number for record in page.leases) or sorted(set(ordered)) != ordered:
                raise self._nonsense("its page of a round is of others, or out of order")
            yield from page.leases
            if page.next is None:
                return
            if not numbers or page.next != numbers[-1]:
                raise self._nonsense("its page of a round leads nowhere")
            after = page.next
        raise self._nonsense("its pages of a round do not end")

    def lease(self, lease_id: int) -> LeaseRecord:
        """What was handed in for a lease. Raises `ConfigError` if nothing was, or its round is not closed."""
        page = self._page(lease_path(lease_id), LeasePage)
        if page is None:
            raise ConfigError(f"{self._address.url} has no contribution of a closed round for lease {lease_id}")
        self._check(page.run_id)
        self.software = page.software
        if page.lease.lease_id != lease_id:
            raise self._nonsense("it tells of another lease")
        return page.lease

    def version(self, number: int) -> VersionRecord | None:
        """A version and the way there; None if the run does not know it."""
        found = self._page(version_path(number), VersionRecord)
        if found is not None:
            self._check(found.run_id)
            if found.version != number:
                raise self._nonsense("it tells of another version")
        return found

    def _page(self, path: str, kind: type[PageT], max_bytes: int = MAX_PAGE_BYTES) -> PageT | None:
        url = self._address.url
        body = bytearray()
        try:
            with limits(within=_WHOLE), self._http.stream("GET", url + path) as response:
                status, headers = response.status_code, response.headers
                for part in response.iter_bytes():
                    body += part
                    if len(body) > max_bytes:
                        raise self._nonsense(f"{path} has more than {max_bytes} bytes")
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            raise Unreachable(f"{url} broke off ({type(error).__name__})") from None
        if status in HTTP_BUSY:
            raise Busy(f"{url} is busy", retry_after(headers))
        if status == httpx2.codes.NOT_FOUND:
            return None
        if status != httpx2.codes.OK:
            raise RetryCall(f"{url}{path} answers with HTTP {status}")
        try:
            return kind.model_validate_json(bytes(body))
        except ValidationError as error:
            raise self._nonsense(f"{path} does not parse, {first_mistake(error)}") from None

    def _check(self, run_id: Any) -> None:
        if run_id != self._run_id:
            raise self._nonsense("it tells of another run")

    def _nonsense(self, what: str) -> ConfigError:
        return ConfigError(
            f"{self._address.url} does not publish its leases as this software reads them ({what}): upgrade the older one"
        )
