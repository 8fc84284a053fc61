"""Exit codes other than 0 and those of commands themselves."""

REFUSED = 2
"""What was asked cannot be done."""
STOPPED = 130
"""Ctrl-C, as shells say it."""
PIPE_CLOSED = 141
"""Whoever read the output has gone, as shells say it."""
