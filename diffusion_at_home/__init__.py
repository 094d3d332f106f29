"""What the coordinator and the worker must agree on bit for bit. Imports neither side."""

import logging
from typing import Final

__version__: Final = "0.1.0"

PROTOCOL_VERSION: Final = 3
"""Raised whenever an old worker could misread a new coordinator, or the reverse."""

# On a CPU bitsandbytes warns at import of a 4-bit kernel that nothing here uses.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
