"""What to raise where one sample is unusable while the rest of the data set is fine."""


class Rejected(Exception):  # noqa: N818 - an outcome of reading a sample, not a failure of the import
    """One sample cannot be used; the message names the file or field and says why."""
