"""Public files by name: where they come from, and verified copies of them on this machine.

``data_manifest/*.yml`` says of each data set what it is, whose it is and under which licence,
and of each file its public URL, size and checksum.  :func:`fetch` brings files into the cache
and gives a file its final name only after size and checksum agree.

The environment decides where files come from and go to:

=====================  =========================================================================
``PVSBOOK_DATA``       the cache (default: the platform's place for caches)
``PVSBOOK_MIRROR``     a folder or URL that holds ``<data set>/<path>`` and is asked first
``PVSBOOK_OFFLINE``    ``1``: never touch the network
``PVSBOOK_MANIFEST``   the folder of YAML files (default: the nearest ``data_manifest`` in the
                       package or above it)
=====================  =========================================================================

Files are brought by pooch, which checks and names them, with a downloader of our own, because
that of pooch 1.9 starts a broken transfer again from nothing.
"""

from pvsbook.manifest import _cache, _entries
from pvsbook.manifest._cache import *  # noqa: F403
from pvsbook.manifest._entries import *  # noqa: F403

__all__ = [*_cache.__all__, *_entries.__all__]
