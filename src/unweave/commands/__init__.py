"""One file a command (or a few close ones); `cli.py` puts them together."""
