"""Other packages' names for what this one does, so that notebooks written for them run with one changed import."""
