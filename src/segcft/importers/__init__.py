"""From a data set in its own format to a folder that a study reads, or to a store."""
