"""Whether claims and graphs hold in the real model."""
