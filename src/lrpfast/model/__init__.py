"""Models: graphs of layers, without any computation."""
