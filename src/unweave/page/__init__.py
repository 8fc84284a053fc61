"""The page: a graph as one document, in a notebook, or as the server gives it."""
