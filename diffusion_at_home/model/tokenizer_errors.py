"""What the tokenizers' library raises when a tokenizer.json contradicts itself, sometimes at certain texts only.

Beside `ValueError` that is a bare `Exception`, and the panic of a library in Rust, which is a `BaseException` of its own and so
passes all who catch an `Exception`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from diffusion_at_home.errors import DataError

_PANIC: Final = "PanicException"  # each library has its own class of that name, and none can be imported


@contextmanager
def tokenizer_errors(remedy: str) -> Iterator[None]:
    """Within, whatever the library finds wrong with a tokenizer is a `DataError` that ends in `remedy`."""
    try:
        yield
    except BaseException as error:  # raised again but for those three
        if not isinstance(error, ValueError) and type(error) is not Exception and type(error).__name__ != _PANIC:
            raise
        raise DataError(f"the tokenizer is not a valid tokenizer.json ({error!s:.300}): {remedy}") from None
