"""Studies: a behaviour of a model, reproduced, traced and tested by intervention, from a declarative file."""
