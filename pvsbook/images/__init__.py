"""Images checked as they are loaded, and files written whole or not at all.

`load` reads a volume, `load_dwi` a diffusion series and `load_gre` a gradient echo; what no method
can use is refused with one `InputError` that names the file and says what to do.
"""

from pvsbook.images._diffusion import B0_BELOW_S_MM2 as B0_BELOW_S_MM2
from pvsbook.images._diffusion import Dwi, load_dwi
from pvsbook.images._files import PathLike as PathLike
from pvsbook.images._files import number as number
from pvsbook.images._files import read_json as read_json
from pvsbook.images._files import same_acquisition as same_acquisition
from pvsbook.images._files import sidecar, write_bytes
from pvsbook.images._gradient_echo import Gre, load_gre
from pvsbook.images._volumes import ImageLike as ImageLike
from pvsbook.images._volumes import (
    array,
    header_notes,
    load,
    load_mask,
    make,
    rotation,
    same_grid,
    save,
    voxel_size_mm,
)

__all__ = [
    "Dwi",
    "Gre",
    "array",
    "header_notes",
    "load",
    "load_dwi",
    "load_gre",
    "load_mask",
    "make",
    "rotation",
    "same_grid",
    "save",
    "sidecar",
    "voxel_size_mm",
    "write_bytes",
]
