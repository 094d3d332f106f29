"""Tells the operator, by a webhook, what an operator would want to be woken for."""
