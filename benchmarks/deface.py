"""What defacing takes from a whole head: quickshear on a T2w scan, and the count before and after.

    python benchmarks/deface.py T2W [T2W ...]

Needs `pip install 'pvsbook[bench]'` (quickshear).  The brain mask that quickshear needs is the one
that `pvsbook pvs` finds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from pvsbook import images, pvs
from pvsbook.pvs import anatomy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scans", type=Path, nargs="+")
    for path in parser.parse_args().scans:
        scan = images.load(path)
        brain = anatomy.brain_mask(scan)[0]
        with tempfile.TemporaryDirectory() as top:
            mask, defaced = Path(top, "mask.nii.gz"), Path(top, "defaced.nii.gz")
            images.save(brain, mask)
            words = [sys.executable, "-m", "quickshear", path, mask, defaced]
            subprocess.run([*map(str, words)], check=True)
            removed = (images.array(images.load(defaced)) == 0) & (images.array(scan) != 0)
            ml = np.prod(images.voxel_size_mm(scan)) / 1000
            inside = np.asarray(brain.dataobj) > 0
            lost_ml = (removed & inside).sum() * ml
            print(
                f"{path.name}: {removed.sum() * ml:.0f} ml removed, of the brain mask "
                f"({inside.sum() * ml:.0f} ml) {lost_ml:.1f} ml"
            )
            for name, image in (("as it was", path), ("defaced", defaced)):
                for how, given in (("no mask", None), ("mask given", mask)):
                    row = pvs.measure(image, brain_mask=given).to_row()
                    volume = f"{row['volume_mm3']:.0f} mm3, {row['status']}"
                    print(f"  {name}, {how}: {row['n_pvs']} PVS, {volume}", flush=True)


if __name__ == "__main__":
    main()
