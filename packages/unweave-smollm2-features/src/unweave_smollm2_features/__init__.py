"""Data for unweave: a page for every feature of the transcoders in `unweave-smollm2`, in the folder `pages`."""
