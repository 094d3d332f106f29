"""The training step as parts that compose: how weights are kept, how they are updated, when, and where everything lies."""
