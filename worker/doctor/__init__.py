"""Is this machine fit to work for a run? One line a question, each with what to do."""
