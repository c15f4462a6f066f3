"""What to raise where one sample is unusable while the rest of the data set is fine."""

from __future__ import annotations


class Rejected(Exception):  # noqa: N818 - an outcome of reading a sample, not a failure of the import
    """One sample cannot be used; the message names the file or field and says why."""


def bare(reason: Rejected) -> Rejected:
    """``reason`` without its history, whose frames keep alive what they have read, be it whole volumes."""
    reason.__context__ = None
    return reason.with_traceback(None)
