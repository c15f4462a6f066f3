"""The metrics of counterfactuals, a file a family: all that tables and pages know of one is in its file."""
