"""One file a revision, named by its number and what it does; a published one is never changed."""
