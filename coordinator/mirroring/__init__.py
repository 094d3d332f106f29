"""`dah mirror`: a caching mirror of a run's blobs, which anyone can run who has a line and a disk."""
