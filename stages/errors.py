"""The one error type for what a user can cause: a parameter, a file, a full disk."""


class UserError(ValueError):
    """Something outside the code is wrong. The message names what, its value, and the remedy.

    `stages.runner.run` prints it as one line without a traceback; every other exception is a defect
    of openbase and keeps its traceback.
    """
