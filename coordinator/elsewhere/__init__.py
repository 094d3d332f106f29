"""A run's bytes in other places: an object store that the coordinator fills, and mirrors that others keep."""
