"""The one exception for what a user can mend: its text is all they see, and the exit code is 2."""


class UserError(Exception):
    """Say what is wrong, where, what would be right and, where there is one, the command to run."""
