"""What Pillow raises on bytes that are no picture, depending on where it stumbles."""

from __future__ import annotations

import struct
import zlib
from typing import Final

from PIL import Image

DECODER_ERRORS: Final = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    MemoryError,
    RuntimeError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""To be caught around calls of Pillow alone: most of them would also be a fault of our own."""
