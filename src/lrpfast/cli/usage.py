"""What is wrong with a command line."""


class UsageError(Exception):
    """A wrong command line, in argparse's words."""
