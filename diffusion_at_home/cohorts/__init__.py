"""Several experts in the place of one model: each trained on its own part of a data set, and a router between them."""
