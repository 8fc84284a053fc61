"""A trace in words and numbers."""
