"""A small model trained from scratch on a world whose structure is known: world, sentences, tokenizer, training,
measures."""
