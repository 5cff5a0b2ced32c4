"""The one exception that a person reads."""


class UserError(Exception):
    """Bad input: one sentence that says what is wrong, where, and how to mend it.

    Commands print the sentence and exit with code 2, without a traceback.
    """
