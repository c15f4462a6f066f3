"""The training loop of every stage, and what it leaves on disk."""
