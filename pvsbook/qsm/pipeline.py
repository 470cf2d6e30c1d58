"""From a gradient-echo scan to susceptibility in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cc3d
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.derivatives import Writer
from pvsbook.qsm.background import LocalField, lbv, pdf, resharp, smv, vsharp
from pvsbook.qsm.field import GAMMA_MHZ_T, TWO_PI, FieldMap, check_readout, fit_field, hz_to_ppm
from pvsbook.qsm.inversion import closed_form_l2, ndi, tikhonov, tkd, tv
from pvsbook.qsm.mask import brain_mask
from pvsbook.qsm.reference import (
    MIN_VOXELS,
    REFERENCE_COLUMNS,
    Referenced,
    list_references,
    refer,
)
from pvsbook.qsm.unwrap import without_jumps

__all__ = ["COLUMNS", "Flag", "QsmResult", "invert_field", "phase_sign_agrees", "reconstruct"]

MIN_MASK_CM3 = 1.0
BRAIN_CM3 = 400.0
BORDER_SHARE = 0.2
RESIDUAL_RAD = 0.1
MAX_RESIDUAL_RAD = 0.2  # a voxel beyond it is left out
NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})
MAX_DROPPED_SHARE = 0.2
DROPPED_SHARE = 0.02  # next to air the field itself is that steep
CHI_SD_PPB = (8.0, 80.0)  # of a brain; ten times the echo times, or a tenth, lie far outside
ECHO_RISE = 1.05  # the signal decays: the median of a later echo may exceed an earlier one by this
SILENT_SHARE = 0.01  # of the first echo's median: an echo below it holds no signal
JUMPS_SHARE = 0.005  # of neighbours in a magnitude that differ by nearly its whole range

COLUMNS = {
    "status": {"Description": "pass, warn (read the reasons), or fail (susceptibility withheld)"},
    "reasons": {"Description": "what was found, separated by semicolons"},
    "reference": {"Description": "region whose mean susceptibility counts as zero"},
    "reference_value_ppb": {"Description": "what was subtracted", "Units": "ppb"},
    "chi_mean_ppb": {"Description": "mean susceptibility in the mask", "Units": "ppb"},
    "chi_sd_ppb": {"Description": "standard deviation in the mask", "Units": "ppb"},
    "chi_p1_ppb": {"Description": "1st percentile in the mask", "Units": "ppb"},
    "chi_p99_ppb": {"Description": "99th percentile in the mask", "Units": "ppb"},
    "n_echoes": {"Description": "echoes used"},
    "field_strength_t": {"Description": "static field", "Units": "T"},
    "b0_tilt_deg": {"Description": "angle from the third voxel axis to the field", "Units": "deg"},
    "mask_cm3": {"Description": "volume of the first mask", "Units": "cm3"},
    "chi_mask_cm3": {"Description": "volume where susceptibility is known", "Units": "cm3"},
    "n_regions": {"Description": "pieces of the mask, each unwrapped on its own"},
    "n_dropped": {"Description": "voxels left out, where unwrapping or the line fit failed"},
    "residual_p95_rad": {
        "Description": "95th percentile of the line fit's misfit",
        "Units": "rad",
    },
    "field_se_median_ppb": {"Description": "median standard error of the field", "Units": "ppb"},
}


@dataclass(frozen=True)
class Flag:
    """Something a reader of the result must know.

    Attributes
    ----------
    code
        Short and fixed, to count by: ``"crop"``, ``"jumps"``, ``"residual"`` ...
    message
        What was seen and what it means.
    steps
        Steps whose result cannot be used.
    """

    code: str
    message: str
    steps: tuple[str, ...] = ()


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

    susceptibility: Referenced
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
        order = ("unwrapping", "background removal", "inversion")
        return tuple(step for step in order if any(step in f.steps for f in self.flags))

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

        def put(data: ArrayLike, suffix: str, units: str, **entities: str) -> None:
            writer.image(images.make(data, self.affine), suffix, meta={"Units": units}, **entities)

        lost = {s: {"desc": "unsupported"} for s in self.unsupported_steps}  # another name
        writer.image(
            images.make(self.susceptibility.chi_ppm, self.affine),
            "Chimap",
            **lost.get("inversion", {}),
            meta={
                "Units": "ppm",
                "Reference": self.susceptibility.reference,
                "ReferenceValuePpm": self.susceptibility.value_ppm,
                "Supported": "inversion" not in self.unsupported_steps,
                "Reasons": list(self.reasons),
                "Settings": dict(self.settings),
                "Scan": dict(self.scan),
            },
        )
        put(self.field.field_hz, "fieldmap", "Hz", desc="total")
        local = "localunsupported" if "background removal" in lost else "local"
        put(self.local_field.field_ppm, "fieldmap", "ppm", desc=local)
        put(self.field.residual_rad, "fieldmap", "rad", desc="residual")
        put(self.mask, "mask", "", desc="brain")
        put(self.local_field.mask, "mask", "", desc="chi")
        values = ["reference_value_ppb", "standard_error_ppb", "mean_ppb"]
        unsupported = "inversion" in self.unsupported_steps
        table = self.references.assign(**dict.fromkeys(values if unsupported else [], np.nan))
        writer.table(table, REFERENCE_COLUMNS, "qsm", desc="references")
        return writer.table(self.to_row(), COLUMNS, "qsm")


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
    phase_sign: int = 1,
) -> QsmResult:
    """Map susceptibility: mask, unwrap, fit the field, remove the background, invert, refer.

    The order of the steps follows the consensus paper (doi:10.1002/mrm.30006). The default for
    the background does not: the consensus is a technique based on SHARP or PDF; here it is LBV,
    which came out best with TV on this package's own simulated heads, with a mean error of the
    deep grey nuclei of 3 to 7 ppb, against 7 to 9 for PDF and 14 to 17 for V-SHARP and RESHARP,
    whose errors differ from nucleus to nucleus. On heads of other make, and with a mask that is
    too large, the order can be another: compare, and name the method. For *change* between visits
    take `pvsbook.qsm.change.SETTINGS` instead: what LBV does to the slow field depends on how the
    head lies in the scanner's.

    Parameters
    ----------
    gre
        Scan from `pvsbook.images.load_gre`.  The direction of the static field is taken from its
        affine, so a tilted head or oblique slices need no argument.
    mask
        Brain, shape (x, y, z).  Where None, `pvsbook.qsm.mask.brain_mask` makes it.
    reference
        As in `pvsbook.qsm.reference.refer`.
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
    phase_sign
        -1 where the scanner's phase falls in a stronger field; `phase_sign_agrees` helps to tell.

    Returns
    -------
    QsmResult
        Look at `QsmResult.status` first.  A crop, say, can be unwrapped, but what lies around it
        also makes field in it: background removal and inversion are then marked as not
        supported, and the row holds no susceptibility.

    Raises
    ------
    InputError
        Shapes that differ, echo times that are not seconds, a mask that is empty, tiny or of
        another shape, a phase that is noise, an unknown method.

    References
    ----------
    QSM Consensus Organization Committee 2024, doi:10.1002/mrm.30006.

    Examples
    --------
    >>> from pvsbook.phantoms.gradient_echo import make_gre
    >>> head = make_gre(np.random.default_rng(0), voxel_size_mm=4)
    >>> result = reconstruct(head.gre, mask=head.brain)
    >>> result.status, result.susceptibility.reference
    ('pass', 'whole brain')
    """
    _check_scan(gre)
    if phase_sign not in (1, -1):
        raise InputError(f"phase_sign: {phase_sign}; give 1 or -1")
    if background not in BACKGROUNDS:
        raise InputError(f"background: {background!r}; known are {', '.join(BACKGROUNDS)}")
    if inversion not in INVERSIONS:
        raise InputError(f"inversion: {inversion!r}; known are {', '.join(INVERSIONS)}")
    if background == "smv" and inversion not in ("tv", "edge tv"):
        raise InputError(
            f"inversion: {inversion!r} cannot undo the ball mean that background 'smv' subtracts; "
            "use 'tv' or 'edge tv', or background 'vsharp'"
        )
    size, b0, times = gre.voxel_size_mm, gre.b0_direction, gre.echo_times_s
    if mask is None:
        inside = brain_mask(gre.magnitude, gre.phase_rad, size, echo_times_s=times)
    else:
        inside = _check_mask(mask, gre)
    phase = gre.phase_rad if phase_sign == 1 else -gre.phase_rad
    is_bipolar = False
    if times.size > 2 and abs(times[2] - 2 * times[1] + times[0]) < 0.02 * (times[1] - times[0]):
        readout = check_readout(phase, gre.magnitude, times, inside, size)
        is_bipolar, phase = readout.is_bipolar, readout.phase_rad
    field = fit_field(phase, gre.magnitude, times, inside)
    interval_s = float(np.diff(times).min()) if times.size > 1 else float(times[0])
    step_rad = field.field_hz * np.float32(TWO_PI * interval_s)
    known = without_jumps(step_rad, inside) & (field.residual_rad < MAX_RESIDUAL_RAD)
    n_dropped = int(inside.sum() - known.sum())
    if n_dropped > MAX_DROPPED_SHARE * inside.sum():
        raise InputError(
            f"phase: {100 * n_dropped / inside.sum():.0f} % of the mask jumps by more than pi "
            "between neighbours after unwrapping, or fits no line over the echoes, as noise does; "
            "check that the phase belongs to this magnitude, and that it is neither filtered nor "
            "already unwrapped"
        )
    local = _local_field(gre, field.field_hz, known, background, background_options)
    chi = _chi(gre, local, inversion, inversion_options)
    given = {"white matter": white_matter}
    if not isinstance(reference, str):
        given["custom region"] = reference
    return QsmResult(
        susceptibility=refer(chi, local.mask, reference),
        references=list_references(
            chi, local.mask, gre, given={k: v for k, v in given.items() if v is not None}
        ),
        mask=known,
        field=field,
        local_field=local,
        affine=gre.affine,
        flags=_flags(gre, known, field, n_dropped, is_bipolar)
        + _implausible(gre, known, field, chi[local.mask]),
        settings=MappingProxyType(
            {
                "mask": "made from magnitude and phase" if mask is None else "given",
                "unwrapping": "ROMEO of the echo difference",
                "background": background,
                "background_options": dict(background_options),
                "inversion": inversion,
                "inversion_options": dict(inversion_options),
                "phase_sign": phase_sign,
            }
        ),
        scan=MappingProxyType(
            {
                "echo_times_s": tuple(times.tolist()),
                "field_strength_t": gre.field_strength_t,
                "b0_direction": tuple(b0.tolist()),
                "voxel_size_mm": tuple(size.tolist()),
                "phase_stored_as": gre.phase_stored_as,
                "n_dropped": n_dropped,
            }
        ),
    )


def _local_field(
    gre: images.Gre,
    field_hz: NDArray[np.float32],
    known: NDArray[np.bool_],
    background: str,
    options: Mapping[str, Any],
) -> LocalField:
    total_ppm = hz_to_ppm(field_hz, gre.field_strength_t)
    whole = ndimage.binary_fill_holes(known)  # a hole would be taken for the brain's rim
    remove = BACKGROUNDS[background]
    local = remove(total_ppm, whole, gre.voxel_size_mm, gre.b0_direction, options)
    if not local.mask.any():
        raise InputError(
            f"mask: {known.sum()} voxels can be trusted, and all of them lie on its rim, which "
            f"{background} needs; give a larger mask, in one piece"
        )
    # Voxels left out inside the brain keep their place: their susceptibility follows from the
    # field around them, as that of a calcification without signal does.
    return replace(local, field_ppm=local.field_ppm * known)


def _chi(
    gre: images.Gre, local: LocalField, inversion: str, options: Mapping[str, Any]
) -> NDArray[np.float32]:
    solve = INVERSIONS[inversion]
    if local.ball_mm > 0:
        options = {"ball_mm": local.ball_mm, **options}
    return solve(local.field_ppm, local.mask, gre.voxel_size_mm, gre.b0_direction, gre, options)


def invert_field(
    gre: images.Gre, result: QsmResult, field_hz: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Repeat background removal and inversion of `result`, with its settings, on another field.

    Returns susceptibility in ppm, referred to the mean of the mask.
    """
    s = result.settings
    local = _local_field(gre, field_hz, result.mask, s["background"], s["background_options"])
    chi = _chi(gre, local, s["inversion"], s["inversion_options"])
    return refer(chi, local.mask).chi_ppm


def _ndi(
    field: Any, mask: Any, size: Any, b0: Any, gre: images.Gre, options: Mapping[str, Any]
) -> NDArray[np.float32]:
    turns_per_ppm = GAMMA_MHZ_T * gre.field_strength_t * float(np.mean(gre.echo_times_s))
    return ndi(field, mask, size, b0, radians_per_ppm=TWO_PI * turns_per_ppm, **options).chi_ppm


BACKGROUNDS: Mapping[str, Callable[..., LocalField]] = {
    "lbv": lambda f, m, size, b0, o: lbv(f, m, size, **o),
    "smv": lambda f, m, size, b0, o: smv(f, m, size, **o),
    "vsharp": lambda f, m, size, b0, o: vsharp(f, m, size, **o),
    "resharp": lambda f, m, size, b0, o: resharp(f, m, size, **o),
    "pdf": lambda f, m, size, b0, o: pdf(f, m, size, b0, **o),
}
INVERSIONS: Mapping[str, Callable[..., NDArray[np.float32]]] = {
    "tv": lambda f, m, size, b0, gre, o: tv(f, m, size, b0, **o).chi_ppm,
    "edge tv": lambda f, m, size, b0, gre, o: (
        tv(f, m, size, b0, magnitude=gre.magnitude[..., -1], **o).chi_ppm
    ),
    "tkd": lambda f, m, size, b0, gre, o: tkd(f, m, size, b0, **o),
    "l2": lambda f, m, size, b0, gre, o: closed_form_l2(f, m, size, b0, **o),
    "tikhonov": lambda f, m, size, b0, gre, o: tikhonov(f, m, size, b0, **o).chi_ppm,
    "ndi": _ndi,
}


def phase_sign_agrees(result: QsmResult, diamagnetic: ArrayLike, paramagnetic: ArrayLike) -> bool:
    """Tell whether known tissue comes out with the sign that it must have.

    Parameters
    ----------
    result
        From `reconstruct`.
    diamagnetic, paramagnetic
        Masks: white matter or a calcification; pallidum, veins or a bleed.

    Returns
    -------
    bool
        False: reconstruct again with ``phase_sign=-1``.

    Examples
    --------
    >>> from pvsbook.phantoms.gradient_echo import make_gre
    >>> head = make_gre(np.random.default_rng(0), voxel_size_mm=4)
    >>> pallidum, white = np.isin(head.labels, (5, 6)), head.chi_ppm < -0.02
    >>> phase_sign_agrees(reconstruct(head.gre, mask=head.brain), white & head.brain, pallidum)
    True
    """
    known = result.local_field.mask
    masks = [np.asarray(m, bool) & known for m in (diamagnetic, paramagnetic)]
    for name, region in zip(("diamagnetic", "paramagnetic"), masks, strict=True):
        if region.shape != known.shape or region.sum() < MIN_VOXELS:
            raise InputError(f"{name}: fewer than {MIN_VOXELS} voxels of it lie in the map")
    low, high = (float(np.median(result.susceptibility.chi_ppm[m])) for m in masks)
    return low < high


def _check_scan(gre: images.Gre) -> None:
    times = np.asarray(gre.echo_times_s, np.float64)
    if gre.magnitude.ndim != 4 or gre.magnitude.shape != gre.phase_rad.shape:
        raise InputError(
            f"phase: has shape {gre.phase_rad.shape}, but magnitude has {gre.magnitude.shape}; "
            "both must be (x, y, z, echo), from the same series"
        )
    seen = ", ".join(f"{t:g}" for t in times)
    if times.shape != gre.magnitude.shape[3:]:
        raise InputError(
            f"echo_times_s: {times.size} ({seen}), but there are {gre.magnitude.shape[3]} echoes"
        )
    if times.max() >= 0.5:
        raise InputError(f"echo_times_s: {seen} look like milliseconds; give seconds")
    if times.min() < 1e-4 or (np.diff(times) <= 0).any():
        raise InputError(f"echo_times_s: {seen}; they must be positive and rising, in seconds")


def _check_mask(mask: ArrayLike, gre: images.Gre) -> NDArray[np.bool_]:
    inside = np.asarray(mask)
    if inside.shape != gre.magnitude.shape[:3]:
        raise InputError(
            f"mask: has shape {inside.shape}, but the scan has {gre.magnitude.shape[:3]}; "
            "resample it to the scan (nearest neighbour)"
        )
    if not np.isin(np.unique(inside), (0, 1)).all():
        raise InputError(
            f"mask: holds values from {inside.min():g} to {inside.max():g}; give 0 and 1 only"
        )
    inside = inside.astype(bool) & (gre.magnitude[..., 0] > 0)
    volume_cm3 = inside.sum() * abs(np.linalg.det(gre.affine[:3, :3])) / 1000
    if volume_cm3 < MIN_MASK_CM3:
        raise InputError(
            f"mask: holds {volume_cm3:.3g} cm3 with signal; at least {MIN_MASK_CM3:g} cm3 are "
            "needed, so check that it belongs to this scan"
        )
    return inside


def _implausible(
    gre: images.Gre, inside: NDArray[np.bool_], field: FieldMap, chi_ppm: NDArray[np.float32]
) -> tuple[Flag, ...]:
    """Name what no gradient echo of a brain can be: files in another order, exchanged, scaled."""
    flags = []
    every = ("unwrapping", "background removal", "inversion")
    medians = np.array([np.median(echo[inside]) for echo in np.moveaxis(gre.magnitude, -1, 0)])
    seen = ", ".join(f"{m:.3g}" for m in medians)
    if (medians < SILENT_SHARE * medians[0]).any():
        flags.append(
            Flag("silent echo", f"the magnitude in the brain is {seen}: an echo is empty", every)
        )
    elif (medians[1:] > ECHO_RISE * medians[:-1]).any():
        flags.append(
            Flag(
                "decay",
                f"the magnitude in the brain is {seen} from echo to echo, but it must fall with "
                "echo time; are the files in the order of the echoes?",
                every,
            )
        )
    if _jumps_share(gre.magnitude[..., 0]) > JUMPS_SHARE:
        flags.append(
            Flag(
                "exchanged",
                "the magnitude jumps by nearly its whole range between neighbours, as a wrapped "
                "phase does; are magnitude and phase exchanged?",
                every,
            )
        )
    if gre.echo_times_s.size > 2 and not (field.standard_error_hz[inside] > 0).any():
        flags.append(
            Flag("no noise", "the line fits all echoes without any error, as copies do", every)
        )
    spread_ppb = 1e3 * float(chi_ppm.std())
    low, high = CHI_SD_PPB
    if not low <= spread_ppb <= high:
        words = (
            f"susceptibility spreads by {spread_ppb:.3g} ppb (SD), in a brain by {low:g} to "
            f"{high:g}"
        )
        is_noisy = np.percentile(field.residual_rad[inside], 95) > RESIDUAL_RAD
        if is_noisy and spread_ppb > high:
            flags.append(Flag("spread", f"{words}: the noise of the phase is in it"))
        else:
            words += "; check the echo times, the field strength and the scale of the phase"
            flags.append(Flag("spread", words, ("inversion",)))
    return tuple(flags)


def _jumps_share(magnitude: NDArray[np.float32]) -> float:
    """Share of neighbours, both with signal, that differ by more than 0.8 of the range."""
    low, high = np.quantile(magnitude[magnitude > 0], (0.001, 0.999))
    jumps = pairs = 0
    for axis in range(3):
        one = magnitude[tuple(slice(-1) if a == axis else slice(None) for a in range(3))]
        two = magnitude[tuple(slice(1, None) if a == axis else slice(None) for a in range(3))]
        both = (one > 0) & (two > 0)
        pairs += int(both.sum())
        jumps += int((np.abs(one - two)[both] > 0.8 * (high - low)).sum())
    return jumps / max(pairs, 1)


def _flags(
    gre: images.Gre, inside: NDArray[np.bool_], field: FieldMap, n_dropped: int, is_bipolar: bool
) -> tuple[Flag, ...]:
    flags = []
    later = ("background removal", "inversion")
    faces = [np.take(inside, end, axis).mean() for axis in range(3) for end in (0, -1)]
    cut = sum(share > BORDER_SHARE for share in faces)
    if cut:
        flags.append(
            Flag(
                "crop",
                f"the mask reaches through {cut} of the volume's 6 faces, so field from tissue "
                "that was not scanned cannot be told from its own",
                later,
            )
        )
    volume_cm3 = inside.sum() * abs(np.linalg.det(gre.affine[:3, :3])) / 1000
    if volume_cm3 < BRAIN_CM3:
        flags.append(Flag("small mask", f"{volume_cm3:.0f} cm3, less than a brain"))
    pieces = cc3d.connected_components(inside, connectivity=6)
    largest = int(np.bincount(pieces.ravel())[1:].max())
    if largest < 0.99 * inside.sum():
        flags.append(
            Flag("pieces", f"the mask is in {field.n_regions} pieces; each is off by a constant")
        )
    if n_dropped > DROPPED_SHARE * inside.sum():
        flags.append(
            Flag("jumps", f"{n_dropped} voxels left out, where unwrapping or the line fit failed")
        )
    if field.residual_rad.any():
        residual = float(np.percentile(field.residual_rad[inside], 95))
        if residual > RESIDUAL_RAD:
            flags.append(
                Flag("residual", f"95 % of the line fits miss by up to {residual:.2f} rad")
            )
    if is_bipolar:
        flags.append(
            Flag("bipolar", "odd and even echoes differ by a smooth phase, which was taken out")
        )
    if gre.echo_times_s.size == 1:
        flags.append(Flag("one echo", "the coil's phase cannot be told from the field"))
    return tuple(flags)
