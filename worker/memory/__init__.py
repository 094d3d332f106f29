"""What a training step needs of memory, known before anything is downloaded."""
