"""Training dictionaries: configuration, text, recording a model, sparse products, the loop, checkpoints, display."""
