"""Errors that a user can act on. The command line prints their message without a traceback."""


class SegcftError(Exception):
    """Base of every error that segcft raises about its input."""


class StudyError(SegcftError):
    """A study file is wrong; the message names the file and the key."""


class DataError(SegcftError):
    """Images, masks or tables are wrong; the message names the file and the field."""


class RunError(SegcftError):
    """A run folder lacks an artefact, or holds one of another study or version."""


class InterventionError(SegcftError):
    """A do() names an unknown variable or a value that it cannot take."""


class WriteError(SegcftError):
    """A file cannot be written, e.g. for want of space; what was there before is untouched."""
