"""Where commands print."""

from rich.console import Console


def console() -> Console:
    """Print to a terminal with its width, to a pipe without folding."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=200)
