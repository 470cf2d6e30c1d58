"""A value for every deep grey nucleus of one scan, with its error and its references."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.atlas import deep_grey, templates
from pvsbook.atlas.registration import Registration, is_placed, resample_labels
from pvsbook.method import describe_columns
from pvsbook.qsm._placement import Masked, check_decay, place
from pvsbook.qsm.lesions import LESION_COLUMNS, Lesions
from pvsbook.qsm.microbleeds import OBJECT_COLUMNS, SmallSources
from pvsbook.qsm.pipeline import COLUMNS as MAP_COLUMNS
from pvsbook.qsm.pipeline import QsmResult
from pvsbook.qsm.quality import Flag
from pvsbook.qsm.r2s import fit_r2s
from pvsbook.qsm.reference import with_white_matter
from pvsbook.qsm.regions import MIN_REGION_VOXELS, erode_labels, measure_regions, noise_ppb
from pvsbook.qsm.separation import TRAIN_COLUMNS, Sources, rest_of_train
from pvsbook.qsm.swi import minimum_projection, weight_by_phase

__all__ = ["COLUMNS", "REGION_COLUMNS", "Nuclei", "measure_nuclei"]

SLAB_MM = 8.0  # of the minimum intensity projection
PLACEMENT_MM = 1.0  # SD along each axis that the error of placement stands for
FINE_MM = 1.5  # up to here a voxel is taken off each nucleus
# Pallidum less white matter.  In adults it is 100 to 200 ppb (Li et al. 2014, Zhang et al. 2018).
MIN_CONTRAST_PPB = 20.0
UNPLACED = (
    "the {} correlates with the template by {:.2f}, so none was placed; check the "
    "orientation in the header, and give a brain mask"
)
SCHEMATIC = (
    "the Melbourne atlas is not at hand, so the nuclei are simple shapes, too coarse to compare "
    "people by; fetch it (pvsbook data fetch atlas_tian), or say atlas: schematic"
)
NOT_BY_T1W = (
    "the nuclei were placed by the magnitude, not by the T1w image: {}; give the T1w image of "
    "this visit"
)
MIN_WHITE = 0.95  # of the template's fraction of white matter

REGION_COLUMNS = describe_columns(
    ("label", "number in the label image"),
    ("region", "name of the nucleus"),
    ("side", "left or right"),
    ("atlas", "Melbourne (Tian et al. 2020), or schematic: simple shapes of our own"),
    ("n_voxels", "voxels measured"),
    ("volume_mm3", "volume of the label, before its rim is taken off", "mm3"),
    ("mean_ppb", "mean susceptibility, by the reference of the map", "ppb"),
    ("median_ppb", "median susceptibility", "ppb"),
    ("sd_ppb", "standard deviation over voxels", "ppb"),
    ("r2s_hz", "mean R2*, over the same voxels", "1/s"),
    ("se_noise_ppb", "standard error of the mean from thermal noise", "ppb"),
    ("se_placement_ppb",
     f"standard error of the mean if the label is {PLACEMENT_MM:g} mm off (SD along each axis)",
     "ppb"),
    ("se_ppb", "both errors together; not pose, nor what background removal leaves",
     "ppb"),
    ("mean_csf_ppb", "mean, with the CSF of the ventricles as zero", "ppb"),
    ("mean_white_ppb", "mean, with white matter as zero", "ppb"),
    ("paramagnetic_ppb", "mean paramagnetic source (iron), see sources_status", "ppb"),
    ("diamagnetic_ppb", "mean diamagnetic source (myelin), see sources_status", "ppb"),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Nuclei:
    """Susceptibility of a scan and of each deep grey nucleus in it.

    Attributes
    ----------
    map
        The map, from `pvsbook.qsm.reconstruct`, with what the nuclei say of it among its flags.
    table
        One row a nucleus, columns as `REGION_COLUMNS`; without values where the nuclei cannot be
        placed.
    labels
        Their numbers on the grid of the scan, shape (x, y, z).
    registration
        Of the image in `placed_by` with the template; None where it was not tried.
    contrast_ppb
        Pallidum less white matter.
    placed_by
        ``"T1w"`` or ``"magnitude"``; empty where nothing was placed.
    r2s_hz, swi
        R2*, and the last echo's susceptibility-weighted image, shape (x, y, z); None with one
        echo, and where a step before them is not supported.
    sources, sources_status
        Para- and diamagnetic susceptibility from `pvsbook.qsm.separation.separate_scan`.
    objects
        Microbleeds, calcifications and veins; None with one echo, or without a supported map.
    lesions
        Of a mask of lesions; None where none was given, or the map is not supported.
    """

    map: QsmResult
    table: pd.DataFrame
    labels: NDArray[np.int32]
    registration: Registration | None
    contrast_ppb: float
    placed_by: str = ""
    r2s_hz: NDArray[np.float32] | None = None
    swi: NDArray[np.float32] | None = None
    sources: Sources | None = None
    sources_status: str = "withheld: the map is not supported"
    objects: SmallSources | None = None
    lesions: Lesions | None = None

    @property
    def status(self) -> str:
        """``"pass"``, ``"warn"``, or ``"fail"`` where the map is not supported."""
        return self.map.status

    @property
    def reasons(self) -> tuple[str, ...]:
        """What the flags say, in words."""
        return self.map.reasons

    def to_row(self) -> dict[str, Any]:
        """Return one flat row: the map's, and mean and error of each nucleus."""
        found = self.registration
        row = self.map.to_row() | {
            "placed_by": self.placed_by,
            "registration_correlation": np.nan if found is None else found.correlation,
            "pallidum_contrast_ppb": self.contrast_ppb,
            **dict.fromkeys(TRAIN_COLUMNS, np.nan),
            "sources_status": self.sources_status,
        }
        if self.sources is not None:
            row["sources_clipped"] = self.sources.share_clipped
        for part in (self.objects, self.lesions):
            row |= {} if part is None else part.to_row()
        for r in self.table.to_dict("records"):
            name = deep_grey.column(r["region"], r["side"])
            row |= {f"{name}_ppb": r["mean_ppb"], f"{name}_se_ppb": r["se_ppb"]}
        return row

    def save(
        self, folder: images.PathLike, *, prefix: str = "sub-scan", sources: Sequence[str] = ()
    ) -> None:
        """Write the map, the table of nuclei and their labels as BIDS-Derivatives.

        Parameters
        ----------
        folder
            Top of the derivatives data set.
        prefix
            Entities of the scan, such as ``sub-01_ses-2``.
        sources
            Names of the input files.
        """
        writer = self.map.save_maps(folder, prefix=prefix, sources=sources)
        writer.table(self.table, REGION_COLUMNS, "qsm", desc="nuclei")
        names = dict(
            zip(self.table["label"], self.table["region"] + " " + self.table["side"], strict=True)
        )
        parts = [("nuclei", self.labels, names)]
        writer.table(self.to_row(), COLUMNS, "qsm")
        for suffix, data, meta, entities in self._pictures():
            writer.image(images.make(data, self.map.affine), suffix, meta=meta, **entities)
        if self.objects is not None:
            table = self.objects.table
            writer.table(table, OBJECT_COLUMNS, "qsm", desc="objects")
            names = dict(zip(table["label"], table["class"], strict=True))
            parts.append(("objects", self.objects.labels, names))
        if self.lesions is not None:
            table = self.lesions.table
            writer.table(table, LESION_COLUMNS, "qsm", desc="lesions")
            parts.append(("lesions", self.lesions.labels, dict.fromkeys(table["label"], "lesion")))
        for desc, labels, names in parts:
            writer.segmentation(images.make(labels, self.map.affine), names, desc=desc)

    def _pictures(
        self,
    ) -> Iterator[tuple[str, NDArray[np.float32], Mapping[str, Any], dict[str, str]]]:
        if self.r2s_hz is not None:
            yield "R2starmap", self.r2s_hz, {"Units": "1/s"}, {}
        if self.sources is not None:
            about = {"Units": "ppm", "Status": self.sources_status, **self.sources.about}
            yield "Chimap", self.sources.iron_ppm, about, {"desc": "paramagnetic"}
            yield "Chimap", self.sources.myelin_ppm, about, {"desc": "diamagnetic"}
        if self.swi is not None:
            size = nib.affines.voxel_sizes(self.map.affine)
            slab_mm = {"SlabMillimetres": SLAB_MM}
            yield "swi", self.swi, {"Units": "arbitrary"}, {}
            yield "minIP", minimum_projection(self.swi, size, thickness_mm=SLAB_MM), slab_mm, {}


def measure_nuclei(
    gre: images.Gre,
    result: QsmResult,
    rng: np.random.Generator,
    *,
    atlas: str = "auto",
    n_repeats: int = 2,
    t1w: Masked | str | None = None,
    r2_hz: ArrayLike | None = None,
    lesions: ArrayLike | None = None,
) -> Nuclei:
    """Place the nuclei on a scan through a T1w image or by its magnitude, and measure each.

    Parameters
    ----------
    gre, result
        Scan and its reconstruction.
    rng
        Draws noise for the error.
    atlas
        As in `pvsbook.atlas.deep_grey.nuclei`; ``"auto"`` is the Melbourne atlas where it is at
        hand, else the schematic one with a flag; ``"none"`` saves some seconds.
    n_repeats
        As in `pvsbook.qsm.regions.noise_ppb`.
    t1w
        T1w image of the same visit, in any pose and on any grid, and its brain mask.  Where it
        does not fit the template or the magnitude, the magnitude places the nuclei, with a flag;
        so it does where there is only the reason why the image cannot be read.
    r2_hz
        As in `pvsbook.qsm.separation.separate_scan`.
    lesions
        Mask of lesions, shape (x, y, z), to measure as `pvsbook.qsm.lesions` does.

    Returns
    -------
    Nuclei
        Without values where the map is not supported, where the image does not fit the
        template, or where the pallidum does not stand out from white matter; the map's flags say
        so.  A pallidum well *below* white matter means that the phase has the other sign: then
        the map is not supported either.

    Examples
    --------
    >>> from pvsbook.phantoms.gradient_echo import make_gre
    >>> from pvsbook.qsm import reconstruct
    >>> head = make_gre(np.random.default_rng(0), voxel_size_mm=2)
    >>> found = measure_nuclei(head.gre, reconstruct(head.gre), np.random.default_rng(0),
    ...                        atlas="schematic")
    >>> bool(found.contrast_ppb > 100)
    True
    """
    if atlas == "auto":
        atlas = "melbourne" if deep_grey.has_tian() else "schematic"
        if atlas == "schematic" and not result.unsupported_steps:
            result = replace(result, flags=(*result.flags, Flag("atlas", SCHEMATIC)))
    pictures = _decay_and_swi(gre, result)
    empty = pd.DataFrame(deep_grey.table(), columns=list(REGION_COLUMNS))
    nothing = np.zeros(result.mask.shape, np.int32)

    def without(flags: Sequence[Flag], found: Registration | None = None) -> Nuclei:
        flagged = replace(result, flags=result.flags + tuple(flags))
        train = rest_of_train(gre, flagged, pictures, None, None, r2_hz, lesions)
        return Nuclei(flagged, empty, nothing, found, np.nan, "", **pictures, **train)

    if result.unsupported_steps or atlas == "none":
        return without([])  # values would not be of susceptibility, or are not wanted
    labels, table = deep_grey.nuclei(atlas)
    last = images.make(gre.magnitude[..., -1], gre.affine)
    brain = images.make(result.mask.astype(np.uint8), gre.affine)
    try:
        placed = place((last, brain), t1w)
    except InputError as error:
        return without([Flag("nuclei", f"could not be placed: {error}")])
    found = placed.registration
    if placed.doubt:
        flag = Flag("t1w", NOT_BY_T1W.format(placed.doubt))
        result = replace(result, flags=(*result.flags, flag))
    if not is_placed(found):
        words = UNPLACED.format(placed.image, found.correlation)
        return without([Flag("nuclei", words)], found)
    native = _place(labels, found, result, (0.0, 0.0, 0.0))
    known = result.local_field.mask
    white = _white_matter(gre, found) & known
    result = replace(result, flags=result.flags + check_decay(gre, pictures.get("r2s_hz"), white))
    references = with_white_matter(
        result.references, result.susceptibility, known, white, placed.image
    )
    rows = _measure(gre, result, native, table, rng, n_repeats)
    rows["r2s_hz"] = _mean_of(pictures.get("r2s_hz"), gre, result, native, table)
    rows["se_placement_ppb"] = _placement_ppb(gre, result, labels, found, table)
    rows["se_ppb"] = np.hypot(rows["se_noise_ppb"], rows["se_placement_ppb"])
    zeros = references.set_index("reference")["reference_value_ppb"]
    for column, name in (("mean_csf_ppb", "CSF"), ("mean_white_ppb", "white matter")):
        rows[column] = rows["mean_ppb"] + 1e3 * result.susceptibility.value_ppm - zeros[name]
    contrast = float(rows.loc[rows["region"] == "pallidum", "mean_white_ppb"].mean())
    if doubt := contrast_flag(contrast):
        return replace(without([doubt], found), contrast_ppb=contrast)
    result = replace(result, references=references)
    train = rest_of_train(gre, result, pictures, native, white, r2_hz, lesions)
    for column, source in (("paramagnetic_ppb", "iron_ppm"), ("diamagnetic_ppb", "myelin_ppm")):
        values = train.get("sources") and getattr(train["sources"], source)
        rows[column] = _mean_of(values, gre, result, native, table, 1e3)
    table = rows[list(REGION_COLUMNS)]
    return Nuclei(result, table, native, found, contrast, placed.image, **pictures, **train)


def contrast_ppb(
    gre: images.Gre,
    result: QsmResult,
    labels: nib.Nifti1Image,
    table: pd.DataFrame,
    found: Registration,
) -> float:
    """Return pallidum less white matter, to see whether the nuclei lie where they should."""
    native = _place(labels, found, result, (0.0, 0.0, 0.0))
    known = result.local_field.mask
    pallidum = np.isin(native, table.loc[table["region"] == "pallidum", "label"]) & known
    white = _white_matter(gre, found) & known
    if not pallidum.any() or not white.any():
        return float("nan")
    chi = 1e3 * result.susceptibility.chi_ppm.astype(np.float64)
    return float(chi[pallidum].mean() - chi[white].mean())


def contrast_flag(contrast_ppb: float) -> Flag | None:
    """Say why a pallidum that does not stand out from white matter is not believed."""
    if contrast_ppb >= MIN_CONTRAST_PPB:
        return None
    if np.isnan(contrast_ppb):
        return Flag("nuclei", "the pallidum or white matter lies outside the map, so nothing says "
                    "that the nuclei lie where they should")  # fmt: skip
    found = f"the pallidum lies {contrast_ppb:.0f} ppb above white matter"
    if contrast_ppb > -MIN_CONTRAST_PPB:
        words = (
            f"{found}, in an adult about 150: the nuclei lie elsewhere, or this is no such scan"
        )
        return Flag("nuclei", words)
    words = (
        f"{found}, but iron is paramagnetic: the phase has the other sign; negate it "
        "(--flip-phase on the command line, phase_sign: -1 in settings)"
    )
    return Flag("sign", words, ("inversion",))


def _place(
    labels: nib.Nifti1Image, found: Registration, result: QsmResult, shift_mm: Sequence[float]
) -> NDArray[np.int32]:
    """Bring labels to the scan, moved in MNI space by a shift."""
    shift = nib.affines.from_matvec(np.eye(3), shift_mm)
    to_scan = np.linalg.inv(found.native_to_mni) @ shift
    return resample_labels(labels, to_scan, result.mask.shape, result.affine)


def _erosion(gre: images.Gre) -> int:
    return 1 if max(gre.voxel_size_mm) <= FINE_MM else 0


def _measure(
    gre: images.Gre,
    result: QsmResult,
    native: NDArray[np.int32],
    table: pd.DataFrame,
    rng: np.random.Generator,
    n_repeats: int,
) -> pd.DataFrame:
    """Measure each nucleus, and the noise in it where three echoes tell the field's."""
    erode = _erosion(gre)
    chi, known = result.susceptibility.chi_ppm, result.local_field.mask
    rows = measure_regions(chi, native, table, known, gre.voxel_size_mm, erode=erode)
    rows["atlas"] = table["atlas"]
    rows["se_noise_ppb"] = np.nan
    if gre.echo_times_s.size > 2:
        rows["se_noise_ppb"] = noise_ppb(
            gre, result, native, table, rng, n_repeats=n_repeats, erode=erode
        )
    return rows


def _decay_and_swi(gre: images.Gre, result: QsmResult) -> dict[str, Any]:
    """Make R2* and the susceptibility-weighted image, which need no background removal."""
    if "unwrapping" in result.unsupported_steps or gre.echo_times_s.size < 2:
        return {}
    phase_rad = np.float32(result.settings["phase_sign"]) * gre.phase_rad[..., -1]
    return {
        "r2s_hz": fit_r2s(gre.magnitude, gre.echo_times_s, result.mask),
        "swi": weight_by_phase(gre.magnitude[..., -1], phase_rad, gre.voxel_size_mm),
    }


def _mean_of(
    values: NDArray[np.float32] | None,
    gre: images.Gre,
    result: QsmResult,
    native: NDArray[np.int32],
    table: pd.DataFrame,
    scale: float = 1.0,
) -> NDArray[np.float64]:
    """Average a map over the voxels whose susceptibility was measured; NaN without one."""
    if values is None:
        return np.full(len(table), np.nan)
    core = np.where(result.local_field.mask, erode_labels(native, n_voxels=_erosion(gre)), 0)
    n, total = (ndimage.sum_labels(x, core, table["label"]) for x in (core > 0, values))
    return np.where(n >= MIN_REGION_VOXELS, scale * total / np.maximum(n, 1), np.nan)


def _placement_ppb(
    gre: images.Gre,
    result: QsmResult,
    labels: nib.Nifti1Image,
    found: Registration,
    table: pd.DataFrame,
) -> NDArray[np.float64]:
    """Return how far each mean moves with the labels: half the difference, summed over axes."""
    chi, known = result.susceptibility.chi_ppm, result.local_field.mask
    variance = np.zeros(len(table))
    for shift in PLACEMENT_MM * np.eye(3):
        up, down = (
            measure_regions(
                chi, _place(labels, found, result, sign * shift), table, known,
                gre.voxel_size_mm, erode=_erosion(gre),
            )["mean_ppb"].to_numpy()
            for sign in (1, -1)
        )  # fmt: skip
        variance += ((up - down) / 2) ** 2
    return np.sqrt(variance)


def _white_matter(gre: images.Gre, found: Registration) -> NDArray[np.bool_]:
    """Place the white matter of the template on the grid of a scan, shape (x, y, z)."""
    like = images.make(gre.magnitude[..., 0], gre.affine)
    return images.array(found.to_native(templates.mni("wm"), like, order=1)) > MIN_WHITE


COLUMNS = {
    **MAP_COLUMNS,
    **describe_columns(
        ("placed_by", "image by which the nuclei were placed: T1w or magnitude"),
        ("registration_correlation", "correlation of that image with the template"),
        ("pallidum_contrast_ppb", "pallidum less white matter", "ppb"),
    ),
    **TRAIN_COLUMNS,
    **describe_columns(
        *(
            row
            for _, region, side in deep_grey.table().itertuples(index=False)
            for row in (
                (f"{deep_grey.column(region, side)}_ppb", f"mean of {region}, {side}", "ppb"),
                (f"{deep_grey.column(region, side)}_se_ppb",
                 f"its standard error from noise and placement, {region}, {side}", "ppb"),
            )
        ),
    ),
}  # fmt: skip
"""What each column of `Nuclei.to_row` is."""
