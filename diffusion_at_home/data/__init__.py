"""Data sets as immutable, hashed shards, and the order in which a run reads them."""
