class InputError(ValueError):
    """Tell the user what is wrong with an input, what was found, and what to do.

    The one exception base of the package.  The command line turns it into one line and exit
    code 2; anything else is our fault and ends with exit code 1.
    """
