"""Let ``python -m pvsbook`` do what ``pvsbook`` does."""

from pvsbook.cli import main

main()
