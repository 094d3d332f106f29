"""What the coordinator shows over HTTP: the run, its status, blobs and checkpoints."""
