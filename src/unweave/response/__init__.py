"""Response graphs: what would happen to a prediction without a unit, everything else responding to first order."""
