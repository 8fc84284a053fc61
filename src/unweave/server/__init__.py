"""The page's server: graphs, annotations, tracing and steering over HTTP on this machine alone."""
