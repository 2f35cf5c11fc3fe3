"""What ends a run with one line and exit status 2."""


class Unusable(Exception):
    """Something that a run needs cannot be used; the message is one line and names it."""


class DataError(Unusable):
    """Data that cannot be used; the message names the file or folder."""
