"""Abduction, action and prediction; fine-tuning for them; and warnings where they may be wrong."""
