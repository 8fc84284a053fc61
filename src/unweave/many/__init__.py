"""Many prompts: one graph a prompt and an index of all, on one process, several, or a cluster; stopped and resumed
at any moment."""
