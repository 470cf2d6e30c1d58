"""Where the ALPS index is read in MNI space: projection and association fibres of both sides."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["ALPS_CENTRES_MNI_MM"]

# Centres of the region masks that Liu et al. 2023 (doi:10.14336/AD.2023.0321-2) publish as
# github.com/gbarisano/alps, and that the data set ``alps_rois`` holds: superior corona radiata
# (projection) and superior longitudinal fasciculus (association), in RAS mm; left is negative.
ALPS_CENTRES_MNI_MM: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "left_projection": (-26.0, -16.0, 27.0),
        "left_association": (-38.0, -16.0, 27.0),
        "right_projection": (26.0, -16.0, 27.0),
        "right_association": (38.0, -16.0, 27.0),
    }
)
