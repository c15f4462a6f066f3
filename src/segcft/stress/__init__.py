"""How does somebody's classifier answer to each cause of an image? A counterfactual stress test."""
