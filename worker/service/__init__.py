"""The worker as a service of the volunteer's own: a systemd user unit, and the user's systemd that runs it."""
