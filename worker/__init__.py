"""The volunteer's daemon: takes leases, trains them, hands in what it learned."""
