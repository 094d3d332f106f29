"""The operator's page: who was let in by a one-time link gives the same orders as on the command line."""
