"""A model in the forms that other programs run, read or offer for download."""
