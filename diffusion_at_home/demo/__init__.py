"""The whole system on one machine, with real processes and real training: what `dah demo` runs. Imports neither side."""
