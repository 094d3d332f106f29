"""Recomputing a lease: what is public of one, and whether a contribution is what its lease gives. Pure; trains nothing."""
