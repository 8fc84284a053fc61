"""How good a dictionary is, on held-out text and on fixed prompts, beside baselines that know nothing of features."""
