"""Data for unweave: transcoders for SmolLM2-135M-Instruct, in the folder `dictionary`."""
