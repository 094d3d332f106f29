"""Several devices as one: a process, or rank, for each device, all under the worker's daemon."""
