"""Attribution graphs as data: nodes and their order, influence, pruning, paths, files."""
