"""Transcoders: sparse features in place of MLPs, their file formats, and the replacement model."""
