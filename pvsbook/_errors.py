class InputError(ValueError):
    """Tell the user what is wrong with an input, what was found, and what to do.

    The one exception base of the package.  The command line turns it into one line and an exit
    code; anything else is our fault and ends with exit code 1.

    Parameters
    ----------
    message
        The line.
    code
        Exit code of `pvsbook run`, as the BIDS execution specification has them; the other
        commands end with 2.
    """

    def __init__(self, message: str = "", *, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


INVALID_BIDS, UNKNOWN_LEVEL, NOTHING_SELECTED = 16, 17, 18
USAGE, BAD_DATA, NO_INPUT, CANNOT_CREATE, TRY_AGAIN = 64, 65, 66, 73, 75
