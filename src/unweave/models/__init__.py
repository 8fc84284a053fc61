"""Language models: architectures, one recorded forward pass, and what is left of it with attention and norms frozen."""
