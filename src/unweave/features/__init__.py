"""What features respond to: pages, labels, search."""
