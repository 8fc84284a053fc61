"""A page for every feature: what it was seen to do on much text, what it writes, and what one may call it."""
