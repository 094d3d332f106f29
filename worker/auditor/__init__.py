"""Whoever wants to know whether a run's volunteers trained what they say: leases are trained again from public facts."""
