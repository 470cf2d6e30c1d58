"""Constants that several parts of the package share.

``GAMMA_MHZ_T`` is the gyromagnetic ratio of the proton over 2 pi (CODATA 2018).
``RELAXIVITY_HZ_PPM`` is the R2' that 1 ppm of a source of either sign adds at 3 T (Shin et al.
2021, chi-separation, NeuroImage 240:118371).  ``SERIES`` are the entities of names
that tell the scans of one visit apart.
"""

import math

GAMMA_MHZ_T = 42.577478518
RELAXIVITY_HZ_PPM = 137.0
TWO_PI = math.tau  # radians in one turn
SERIES = ("task", "acq", "ce", "rec", "dir", "run")
