"""When a worker may work: what a volunteer has set, asked of the machine about once a second."""
