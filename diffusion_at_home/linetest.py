"""The line test: what a run's address offers to measure how fast a worker's line is. Both ways are bounded.

`GET LINE_TEST_PATH?bytes=N` answers with N bytes that do not compress; `POST LINE_TEST_PATH` reads a body, keeps nothing
of it and answers 204. Either refuses more than `MAX_LINE_TEST_BYTES` with 413, and more than `MAX_LINE_TESTS` at once
with 503 and a Retry-After, so that measuring cannot keep a run from its work.
"""

from __future__ import annotations

from typing import Final

LINE_TEST_PATH: Final = "/line-test"
"""Where the coordinator serves it."""

MAX_LINE_TEST_BYTES: Final = 8 * 2**20
"""Of one body, down or up."""

MAX_LINE_TESTS: Final = 4
"""At once, both ways together."""
