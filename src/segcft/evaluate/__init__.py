"""How good counterfactuals are: effectiveness, axioms, locality, and the truth where it is known."""
