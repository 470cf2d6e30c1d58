"""Images checked as they are loaded, and files written whole or not at all.

`load` reads a volume, `load_dwi` a diffusion series and `load_gre` a gradient echo; what no method
can use is refused with one `InputError` that names the file and says what to do.
"""

from pvsbook.images import _diffusion, _gradient_echo, _volumes
from pvsbook.images._diffusion import *  # noqa: F403
from pvsbook.images._diffusion import B0_BELOW_S_MM2 as B0_BELOW_S_MM2
from pvsbook.images._diffusion import MIN_DIRECTIONS as MIN_DIRECTIONS
from pvsbook.images._diffusion import count_directions as count_directions
from pvsbook.images._files import PathLike as PathLike
from pvsbook.images._files import check_scanner as check_scanner
from pvsbook.images._files import number as number
from pvsbook.images._files import read_json as read_json
from pvsbook.images._files import same_acquisition as same_acquisition
from pvsbook.images._files import sidecar as sidecar
from pvsbook.images._files import stem as stem
from pvsbook.images._files import write_bytes as write_bytes
from pvsbook.images._gradient_echo import *  # noqa: F403
from pvsbook.images._gradient_echo import check_acquisition as check_acquisition
from pvsbook.images._phase import is_wrapped as is_wrapped
from pvsbook.images._volumes import *  # noqa: F403
from pvsbook.images._volumes import ImageLike as ImageLike
from pvsbook.images._volumes import header_notes as header_notes

__all__ = [*_diffusion.__all__, *_gradient_echo.__all__, *_volumes.__all__]
