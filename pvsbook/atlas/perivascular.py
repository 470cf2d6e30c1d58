"""Where perivascular spaces are counted: centrum semiovale, basal ganglia and midbrain in MNI mm.

The regions are our own, drawn from the MNI152 tissue maps and a few ellipsoids, so that they need
no download.  They follow the levels of the visual rating scale (Potter et al. 2015): white matter
at and above the roof of the lateral ventricles; lentiform and caudate nuclei with the capsules and
the thalamus; midbrain.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import edt
import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from pvsbook import images
from pvsbook.atlas import templates

__all__ = ["REGIONS", "regions"]

REGIONS: Mapping[int, str] = {
    1: "cso_left",
    2: "cso_right",
    3: "bg_left",
    4: "bg_right",
    5: "midbrain_left",
    6: "midbrain_right",
}

# Centres and half axes in mm, for the left side of the head (x < 0).
_BASAL_GANGLIA = ((-21.0, -4.0, 3.0), (15.0, 25.0, 15.0))
_MIDBRAIN = ((0.0, -22.0, -12.0), (16.0, 13.0, 9.0))
_BOX_MM = ((-65, 66), (-98, 68), (-26, 78))  # holds all regions
_CSO_FROM_Z_MM = 22.0
_CSO_DEPTH_MM = 2.0  # how far from the cortex, and from the ventricles
_FLUID_DISTANCE_MM = 2.0  # deep regions keep this far from cisterns, aqueduct and ventricles
_MIDLINE_MM = 9.0  # keeps the corpus callosum and the cingulum out


@lru_cache(maxsize=1)
def regions() -> nib.Nifti1Image:
    """Return the label image of the regions in MNI space (1 mm, 197 x 233 x 189, RAS).

    Labels and names are in `REGIONS`.  The regions lie in tissue: ventricles and sulci are left
    out.

    Returns
    -------
    nibabel.Nifti1Image

    References
    ----------
    Potter et al. 2015, doi:10.1159/000375153.

    Examples
    --------
    >>> labels = np.asarray(regions().dataobj)
    >>> sorted(REGIONS) == np.unique(labels)[1:].tolist()
    True
    """
    whole = templates.mni("wm")
    box = templates.box(_BOX_MM, whole.affine)
    wm, csf, ventricles = (
        np.asarray(templates.mni(kind).dataobj)[box] for kind in ("wm", "csf", "ventricles")
    )
    x, y, z = np.ogrid[tuple(slice(low, high) for low, high in _BOX_MM)]
    from_ventricles = edt.edt(ventricles < 0.5)
    from_cortex = edt.edt(wm > 0.5)
    inside = np.zeros(wm.shape, np.uint8)
    deep = (from_cortex > _CSO_DEPTH_MM) & (from_ventricles > _CSO_DEPTH_MM)
    inside[deep & (z >= _CSO_FROM_Z_MM) & (np.abs(x) > _MIDLINE_MM)] = 1
    tissue = edt.edt(csf < 0.25) > _FLUID_DISTANCE_MM
    inside[tissue & _ellipsoid((-np.abs(x), y, z), _BASAL_GANGLIA)] = 3
    inside[tissue & _ellipsoid((x, y, z), _MIDBRAIN)] = 5
    inside[(inside > 0) & (x > 0)] += 1
    labels = np.zeros(whole.shape, np.uint8)
    labels[box] = inside
    return images.make(labels, whole.affine)


def _ellipsoid(
    at: tuple[NDArray, NDArray, NDArray],
    shape: tuple[tuple[float, float, float], tuple[float, float, float]],
) -> NDArray[np.bool_]:
    centre, half = shape
    x, y, z = ((p - c) / r for p, c, r in zip(at, centre, half, strict=True))
    return x**2 + y**2 + z**2 <= 1
