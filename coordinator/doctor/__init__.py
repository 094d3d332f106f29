"""Whether a run is fit to be served, and by this machine: a line for each question, each with what to do."""
