"""From a gradient-echo scan to susceptibility in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from pvsbook import images
from pvsbook._constants import GAMMA_MHZ_T, TWO_PI
from pvsbook._errors import InputError
from pvsbook.derivatives import Writer
from pvsbook.method import describe_columns
from pvsbook.qsm import quality
from pvsbook.qsm._steps import BACKGROUNDS, INVERSIONS, check_steps, options_of_tv
from pvsbook.qsm.background import LocalField
from pvsbook.qsm.field import FieldMap, check_readout, fit_field, hz_to_ppm
from pvsbook.qsm.harmonic import remove_harmonic
from pvsbook.qsm.inversion import Inversion
from pvsbook.qsm.mask import mask_from_gre
from pvsbook.qsm.quality import STEPS, Flag
from pvsbook.qsm.reference import (
    REFERENCE_COLUMNS,
    Susceptibility,
    check_reference,
    list_references,
    subtract_reference,
)
from pvsbook.qsm.unwrap import without_jumps

__all__ = ["COLUMNS", "QsmResult", "reconstruct"]

MAX_RESIDUAL_RAD = 0.2  # a voxel beyond it is left out
MAX_DROPPED_SHARE = 0.2
KEEPS_SLOW_FIELD = ("lbv", "pdf")  # what SHARP leaves of it is too little to choose by
NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})

COLUMNS = describe_columns(
    ("status", "pass, warn (read the reasons), or fail (susceptibility withheld)"),
    ("reasons", "what was found, separated by semicolons"),
    ("reference", "region whose mean susceptibility counts as zero"),
    ("reference_value_ppb", "what was subtracted", "ppb"),
    ("chi_mean_ppb", "mean susceptibility in the mask", "ppb"),
    ("chi_sd_ppb", "standard deviation in the mask", "ppb"),
    ("chi_p1_ppb", "1st percentile in the mask", "ppb"),
    ("chi_p99_ppb", "99th percentile in the mask", "ppb"),
    ("n_echoes", "echoes used"),
    ("field_strength_t", "static field; no limit: any scanner's", "T"),
    ("b0_tilt_deg", "from the third voxel axis to the field; no limit: any will do", "deg"),
    ("mask_cm3", "volume of the first mask", "cm3"),
    ("chi_mask_cm3", "volume where susceptibility is known; no limit: see mask_cm3", "cm3"),
    ("n_regions", "pieces of the mask, each unwrapped on its own"),
    ("n_dropped", "voxels left out, where unwrapping or the line fit failed"),
    ("residual_p95_rad", "95th percentile of the line fit's misfit", "rad"),
    ("field_se_median_ppb", "median error of the field; no limit: see residual_p95_rad", "ppb"),
)


@dataclass(frozen=True, eq=False)
class QsmResult:
    """Susceptibility and every step on the way to it.

    Attributes
    ----------
    susceptibility
        In ppm, with its reference.
    references
        What other references would subtract, from `pvsbook.qsm.reference.list_references`.
    mask
        Brain, less voxels across which the unwrapped echo difference jumps by more than pi.
    field
        Total field, its misfit and standard error.
    local_field
        Field of the sources inside the mask, and the smaller mask where it is known.
    affine
        Voxel index to scanner mm.
    flags
        What was found on the way.
    settings
        Every parameter, as used.
    scan
        Echo times, field strength, B0 direction.
    """

    susceptibility: Susceptibility
    references: pd.DataFrame
    mask: NDArray[np.bool_]
    field: FieldMap
    local_field: LocalField
    affine: NDArray[np.float64]
    flags: tuple[Flag, ...]
    settings: Mapping[str, Any]
    scan: Mapping[str, Any]

    @property
    def unsupported_steps(self) -> tuple[str, ...]:
        """Steps that ran, but whose result this scan cannot support."""
        return tuple(step for step in STEPS if any(step in f.steps for f in self.flags))

    @property
    def reasons(self) -> tuple[str, ...]:
        """What the flags say, in words."""
        return tuple(f"{f.code}: {f.message}" for f in self.flags)

    @property
    def status(self) -> str:
        """``"pass"``, ``"warn"``, or ``"fail"`` where a step is not supported."""
        return "fail" if self.unsupported_steps else "warn" if self.flags else "pass"

    def to_row(self) -> dict[str, Any]:
        """Return one flat row; susceptibility is NaN where the scan cannot support it."""
        chi = 1e3 * self.susceptibility.chi_ppm[self.local_field.mask].astype(np.float64)
        if "inversion" in self.unsupported_steps:
            chi = np.array([np.nan])
        voxel_cm3 = abs(np.linalg.det(self.affine[:3, :3])) / 1000
        b0 = np.asarray(self.scan["b0_direction"])
        per_hz = 1e3 * hz_to_ppm(np.float64(1), self.scan["field_strength_t"])
        return {
            "status": self.status,
            "reasons": "; ".join(self.reasons),
            "reference": self.susceptibility.reference,
            "reference_value_ppb": 1e3 * self.susceptibility.value_ppm,
            "chi_mean_ppb": float(chi.mean()),
            "chi_sd_ppb": float(chi.std()),
            "chi_p1_ppb": float(np.percentile(chi, 1)),
            "chi_p99_ppb": float(np.percentile(chi, 99)),
            "n_echoes": len(self.scan["echo_times_s"]),
            "field_strength_t": self.scan["field_strength_t"],
            "b0_tilt_deg": float(np.degrees(np.arccos(min(abs(b0[2]), 1.0)))),
            "mask_cm3": float(self.mask.sum() * voxel_cm3),
            "chi_mask_cm3": float(self.local_field.mask.sum() * voxel_cm3),
            "n_regions": self.field.n_regions,
            "n_dropped": self.scan["n_dropped"],
            "residual_p95_rad": float(np.percentile(self.field.residual_rad[self.mask], 95)),
            "field_se_median_ppb": float(
                per_hz * np.median(self.field.standard_error_hz[self.mask])
            ),
        }

    def save(
        self, folder: images.PathLike, *, prefix: str = "sub-scan", sources: Sequence[str] = ()
    ) -> Path:
        """Write maps, row and settings as BIDS-Derivatives; return the path of the row.

        See `save_maps`.
        """
        writer = self.save_maps(folder, prefix=prefix, sources=sources)
        return writer.table(self.to_row(), COLUMNS, "qsm")

    def save_maps(
        self, folder: images.PathLike, *, prefix: str = "sub-scan", sources: Sequence[str] = ()
    ) -> Writer:
        """Write maps, references and settings as BIDS-Derivatives; return what writes beside them.

        A map that the scan cannot support gets another name (``desc-unsupported``), so that
        nobody takes it by the ordinary one.

        Parameters
        ----------
        folder
            Top of the derivatives data set.
        prefix
            Entities of the scan, such as ``sub-01_ses-2``.
        sources
            Names of the input files.
        """
        writer = Writer(folder, prefix=prefix, datatype="anat", sources=sources)

        def put(data: ArrayLike, suffix: str, meta: Mapping[str, Any], **entities: str) -> None:
            writer.image(images.make(data, self.affine), suffix, meta=meta, **entities)

        is_chi = "inversion" not in self.unsupported_steps
        is_local = "background removal" not in self.unsupported_steps
        about = {
            "Units": "ppm",
            "Reference": self.susceptibility.reference,
            "ReferenceValuePpm": self.susceptibility.value_ppm,
            "Supported": is_chi,
            "Reasons": list(self.reasons),
            "Settings": dict(self.settings),
            "Scan": dict(self.scan),
        }
        other_name = {} if is_chi else {"desc": "unsupported"}
        put(self.susceptibility.chi_ppm, "Chimap", about, **other_name)
        for desc, suffix, units, data in (
            ("total", "fieldmap", "Hz", self.field.field_hz),
            ("local" if is_local else "localunsupported", "fieldmap", "ppm",
             self.local_field.field_ppm),
            ("residual", "fieldmap", "rad", self.field.residual_rad),
            ("brain", "mask", "", self.mask),
            ("chi", "mask", "", self.local_field.mask),
        ):  # fmt: skip
            put(data, suffix, {"Units": units}, desc=desc)
        values = ["reference_value_ppb", "standard_error_ppb", "mean_ppb"]
        table = self.references.assign(**dict.fromkeys([] if is_chi else values, np.nan))
        writer.table(table, REFERENCE_COLUMNS, "qsm", desc="references")
        return writer


def reconstruct(
    gre: images.Gre,
    *,
    mask: ArrayLike | None = None,
    reference: str | ArrayLike = "whole brain",
    white_matter: ArrayLike | None = None,
    background: str = "lbv",
    inversion: str = "tv",
    background_options: Mapping[str, Any] = NO_OPTIONS,
    inversion_options: Mapping[str, Any] = NO_OPTIONS,
    harmonic_degree: int = 6,
    phase_sign: int = 1,
) -> QsmResult:
    """Map susceptibility: mask, unwrap, fit the field, remove the background, invert.

    The order of the steps follows the consensus paper (doi:10.1002/mrm.30006). The default for
    the background does not (it names SHARP and PDF): it is LBV, with `remove_harmonic` (see
    `pvsbook.qsm.harmonic`) for the slow map that it cannot settle, and TV in three passes.  On the
    eight simulated heads of three makes that chose it the nuclei erred by 3.3 ppb in the mean and
    7.5 at worst, on six others by 3.8 and 4.5 (slopes of found over true 0.95 to 1.05 and 0.93 to
    1.03); on the first eight LBV alone by 9.1 and 23.8, V-SHARP by 14.8 and 20.8, RESHARP by 15.3
    and 20.9.  For *change* between visits take `pvsbook.qsm.change.SETTINGS`.

    Parameters
    ----------
    gre
        Scan from `pvsbook.images.load_gre`.  The direction of the static field is taken from its
        affine, so a tilted head or oblique slices need no argument.
    mask
        Brain, shape (x, y, z).  Where None, `pvsbook.qsm.mask.mask_from_gre` makes it.
    reference
        As in `pvsbook.qsm.reference.subtract_reference`.
    white_matter
        Mask for the table of references, shape (x, y, z); it changes no map.
    background
        ``"lbv"``, ``"smv"``, ``"vsharp"``, ``"resharp"`` or ``"pdf"`` (see
        `pvsbook.qsm.background`).  LBV takes the field on the mask's rim to be background: take
        RESHARP or PDF where the mask may reach into bone, V-SHARP where the slow part of
        susceptibility does not matter, as for veins.  ``"smv"`` leaves part of the work to the
        inversion, which must then be TV.
    inversion
        ``"tv"``, ``"edge tv"``, ``"tkd"``, ``"l2"``, ``"tikhonov"`` or ``"ndi"`` (see
        `pvsbook.qsm.inversion`).  ``"edge tv"`` trusts the last echo's edges.
    background_options, inversion_options
        Keyword arguments of the two methods, such as ``{"regularisation": 1e-4}``.
    harmonic_degree
        Degree up to which slow harmonic susceptibility is removed after ``"lbv"`` and ``"pdf"``;
        total variation then takes the field as unknown outside and within 2 mm of the rim, weighs
        it by its error, and solves in three passes of 14 iterations unless `inversion_options`
        names a `regularisation`.  With 0 all is kept, and the field outside is zero.
    phase_sign
        -1 where the scanner's phase falls in a stronger field, see
        `pvsbook.qsm.regions.phase_sign_agrees`.

    Returns
    -------
    QsmResult
        Look at `QsmResult.status` first.  A crop, say, can be unwrapped, but what lies around it
        also makes field in it: background removal and inversion are then marked as not
        supported, and the row holds no susceptibility.

    Raises
    ------
    InputError
        A mask that is empty, tiny or of another shape, a phase that is noise, an unknown method
        or an option that it does not have.

    References
    ----------
    QSM Consensus Organization Committee 2024, doi:10.1002/mrm.30006.

    Examples
    --------
    >>> from pvsbook.phantoms.gradient_echo import make_gre
    >>> head = make_gre(np.random.default_rng(0), voxel_size_mm=3)
    >>> result = reconstruct(head.gre, mask=head.brain)
    >>> result.status, result.susceptibility.reference
    ('pass', 'whole brain')
    """
    if phase_sign not in (1, -1):
        raise InputError(f"phase_sign: {phase_sign}; give 1 or -1")
    steps = background, inversion, background_options, inversion_options
    check_steps(*steps, harmonic_degree)
    check_reference(reference)
    flags = quality.check_magnitude(gre) or quality.check_pair(gre)
    try:
        if mask is None:
            inside = mask_from_gre(
                gre.magnitude, gre.phase_rad, gre.voxel_size_mm, echo_times_s=gre.echo_times_s
            )
        else:
            inside = quality.check_mask(mask, gre)
        flags = quality.check_echoes(gre, inside, flags)
        # Where the header is not certain, neither is the direction of the static field.
        flags += tuple(Flag("header", note, ("inversion",)) for note in gre.notes)
        field, known, is_bipolar = _measure_field(gre, inside, phase_sign)
        local = _local_field(gre, field.field_hz, known, background, background_options)
        degree = harmonic_degree if background in KEEPS_SLOW_FIELD else 0
        about = gre, local, known, field
        chi, is_settled = _chi(*about, inversion, inversion_options, degree)
        susceptibility = subtract_reference(chi, local.mask, reference)
    except InputError as error:
        if not flags:
            raise
        # What fails later is a consequence: the first cause is what must be mended.
        raise InputError(f"magnitude: {flags[0].message}") from error
    dropped = inside & ~known
    flags += quality.check_map(
        gre,
        known,
        field,
        local,
        chi[local.mask],
        dropped=dropped,
        is_bipolar=is_bipolar,
        is_settled=is_settled,
    )
    regions = {"white matter": white_matter}
    if not isinstance(reference, str):
        regions["custom region"] = reference
    return QsmResult(
        susceptibility=susceptibility,
        references=list_references(
            chi, local.mask, gre, given={k: v for k, v in regions.items() if v is not None}
        ),
        mask=known,
        field=field,
        local_field=local,
        affine=gre.affine,
        flags=flags,
        settings=MappingProxyType(
            {
                "mask": "made from magnitude and phase" if mask is None else "given",
                "unwrapping": "ROMEO of the echo difference",
                "background": background,
                "background_options": dict(background_options),
                "inversion": inversion,
                "inversion_options": dict(inversion_options),
                "harmonic_degree": degree,
                "phase_sign": phase_sign,
            }
        ),
        scan=MappingProxyType(
            {
                "echo_times_s": tuple(gre.echo_times_s.tolist()),
                "field_strength_t": gre.field_strength_t,
                "b0_direction": tuple(gre.b0_direction.tolist()),
                "voxel_size_mm": tuple(gre.voxel_size_mm.tolist()),
                "phase_stored_as": gre.phase_stored_as,
                "n_dropped": int(dropped.sum()),
            }
        ),
    )


def _measure_field(
    gre: images.Gre, inside: NDArray[np.bool_], phase_sign: int
) -> tuple[FieldMap, NDArray[np.bool_], bool]:
    """Fit the field; return it, the voxels where it can be trusted, and if echoes alternate."""
    times = gre.echo_times_s
    phase = gre.phase_rad if phase_sign == 1 else -gre.phase_rad
    is_bipolar = False
    if times.size > 2 and abs(times[2] - 2 * times[1] + times[0]) < 0.02 * (times[1] - times[0]):
        readout = check_readout(phase, gre.magnitude, times, inside, gre.voxel_size_mm)
        is_bipolar, phase = readout.is_bipolar, readout.phase_rad
    field = fit_field(phase, gre.magnitude, times, inside)
    interval_s = float(np.diff(times).min()) if times.size > 1 else float(times[0])
    step_rad = field.field_hz * np.float32(TWO_PI * interval_s)
    known = without_jumps(step_rad, inside) & (field.residual_rad < MAX_RESIDUAL_RAD)
    dropped_share = 1 - known.sum() / inside.sum()
    if dropped_share > MAX_DROPPED_SHARE:
        raise InputError(
            f"phase: {100 * dropped_share:.0f} % of the mask jumps by more than pi "
            "between neighbours after unwrapping, or fits no line over the echoes, as noise does; "
            "check that the phase belongs to this magnitude, and that it is neither filtered nor "
            "already unwrapped"
        )
    return field, known, is_bipolar


def _local_field(
    gre: images.Gre,
    field_hz: NDArray[np.float32],
    known: NDArray[np.bool_],
    background: str,
    options: Mapping[str, Any],
) -> LocalField:
    total_ppm = hz_to_ppm(field_hz, gre.field_strength_t)
    whole = ndimage.binary_fill_holes(known)  # a hole would be taken for the brain's rim
    if background == "pdf":
        options = {"b0_direction": gre.b0_direction, **options}
    local = BACKGROUNDS[background](total_ppm, whole, gre.voxel_size_mm, **options)
    if not local.mask.any():
        raise InputError(
            f"mask: {known.sum()} voxels can be trusted, and all of them lie on its rim, which "
            f"{background} needs; give a larger mask, in one piece"
        )
    # Voxels left out inside the brain keep their place: their susceptibility follows from the
    # field around them, as that of a calcification without signal does.
    return replace(local, field_ppm=local.field_ppm * known)


def _chi(
    gre: images.Gre,
    local: LocalField,
    known: NDArray[np.bool_],
    field: FieldMap,
    inversion: str,
    options: Mapping[str, Any],
    harmonic_degree: int,
) -> tuple[NDArray[np.float32], bool]:
    """Return susceptibility, and whether the inversion met its tolerance."""
    own: dict[str, Any] = {"ball_mm": local.ball_mm} if local.ball_mm > 0 else {}
    if inversion in ("tv", "edge tv") and harmonic_degree:
        own |= options_of_tv(local.mask, known, field, gre.voxel_size_mm, options)
    if inversion == "edge tv":
        own["magnitude"] = gre.magnitude[..., -1]
    if inversion == "ndi":
        mean_time_s = float(np.mean(gre.echo_times_s))
        own["radians_per_ppm"] = TWO_PI * (GAMMA_MHZ_T * gre.field_strength_t * mean_time_s)
    found = INVERSIONS[inversion](
        local.field_ppm, local.mask, gre.voxel_size_mm, gre.b0_direction, **(own | dict(options))
    )
    if not isinstance(found, Inversion):
        found = Inversion(found, 1, 0.0)
    chi, about = found.chi_ppm, (local.mask, gre.voxel_size_mm, gre.b0_direction)
    if harmonic_degree:
        chi = remove_harmonic(chi, *about, degree=harmonic_degree)
    return chi, found.is_settled


def invert_field(
    gre: images.Gre, result: QsmResult, field_hz: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Repeat background removal and inversion of `result`, with its settings, on another field.

    Returns susceptibility in ppm, referred to the mean of the mask.
    """
    s = result.settings
    local = _local_field(gre, field_hz, result.mask, s["background"], s["background_options"])
    options = s["inversion_options"]
    about = gre, local, result.mask, result.field
    chi, _ = _chi(*about, s["inversion"], options, s["harmonic_degree"])
    return subtract_reference(chi, local.mask).chi_ppm
