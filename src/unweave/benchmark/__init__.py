"""Models whose circuits are known, and how well methods find them."""
