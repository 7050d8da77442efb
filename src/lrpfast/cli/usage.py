"""The error of a wrong command line."""


class UsageError(Exception):
    """A wrong command line, in argparse's words."""
