"""One training run: model, data, optimiser, loop, checkpoints. Knows nothing of searches."""
