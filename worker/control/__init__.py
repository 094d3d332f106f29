"""A volunteer's say: what its owner wants of a running worker, told over a local socket, and kept from start to start."""
