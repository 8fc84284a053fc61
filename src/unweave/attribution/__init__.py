"""From a prompt to an attribution graph: targets, rows, memory, estimates."""
