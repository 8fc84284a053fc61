"""Text: where it comes from, in blocks of tokens, sampled from the model."""
