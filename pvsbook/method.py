"""What a method is to the command line, the BIDS App, the tables and the reports.

Everything that is said of a method is said once, in its `Method`: which files it reads, which
options it has, what its columns mean, and what is shown of a result.  The command line, the
settings file, the tables of a group, the pages and the documentation derive from it.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pvsbook._errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from pvsbook import images

__all__ = ["Input", "Method", "Option", "Result", "Shown", "describe_columns"]

Columns = Mapping[str, Mapping[str, Any]]


class Result(Protocol):
    """What a measuring function returns."""

    @property
    def status(self) -> str:
        """``"pass"``, ``"warn"`` or ``"fail"``."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the status is not a pass."""

    def to_row(self) -> dict[str, Any]:
        """Return every value, by the names of the method's columns."""

    def save(
        self, folder: images.PathLike, *, prefix: str = "sub-scan", sources: Sequence[str] = ()
    ) -> Any:
        """Write maps and tables as BIDS-Derivatives."""


@dataclass(frozen=True)
class Input:
    """A file of a scan, or several, that a method reads.

    Attributes
    ----------
    name
        Role and argument: ``"dwi"``.
    help
        What the file is, for a person at the command line.
    is_several
        Whether there may be several, as one for each echo.
    is_option
        Whether the command line takes it after a flag (``--bval FILE``).
    """

    name: str
    help: str
    is_several: bool = False
    is_option: bool = True


@dataclass(frozen=True)
class Option:
    """A setting of a method.

    Attributes
    ----------
    name
        Keyword of the measuring function.
    default
        What holds where nothing is set.
    help
        What it does, in a line, with the unit.
    choices
        All values that it may have; empty where any will do.
    kind
        Type of the value where the default does not tell: ``float``, ``str``, ``list`` (of
        numbers), ``dict`` (further settings by name) or ``Path`` (a file of one participant, so
        that a settings file for all cannot hold it).
    flag
        Name on the command line, where it is not made of `name`.
    flag_value
        Value that a flag without argument stands for.
    is_found
        Whether sidecars or file names give it, so that the default is what they lack.
    or_file
        Whether a NIfTI file may stand in place of one of the choices.
    of_one_participant
        Whether no file of settings can hold it, as it differs from one participant to the next.
    may_fail
        Whether a scan is measured without it, with a warning, where it cannot be read.
    """

    name: str
    default: Any
    help: str
    choices: tuple[Any, ...] = ()
    kind: type | None = None
    flag: str = ""
    flag_value: Any = None
    is_found: bool = False
    or_file: bool = False
    of_one_participant: bool = False
    may_fail: bool = False

    @property
    def command_line(self) -> str:
        """Name on the command line."""
        return self.flag or "--" + self.name.replace("_", "-")

    @property
    def type(self) -> type:
        """Type of a value."""
        return self.kind or type(self.default)

    @property
    def is_of_one_participant(self) -> bool:
        """Whether its value is a file that belongs to one participant."""
        return self.type is Path or self.of_one_participant

    def check(self, value: Any, where: str) -> None:
        """Refuse a value that the option cannot have.

        Raises
        ------
        InputError
            Says where it stands, what it is and what is possible.
        """
        if value is None and self.default is None:
            return
        value = value.tolist() if hasattr(value, "tolist") else value  # of NumPy
        where = f"{where}: {self.name} is {reprlib.repr(value)}"
        if self.type is Path or (self.or_file and value not in self.choices):
            known = f"choose from {', '.join(self.choices)}, or " if self.choices else ""
            if not isinstance(value, str | Path) or not str(value).endswith((".nii", ".nii.gz")):
                raise InputError(f"{where}; {known}give the path of a NIfTI file")
            if not Path(value).is_file():
                raise InputError(f"{where}, and there is no such file; {known}correct the path")
        elif self.choices:
            if value not in self.choices or isinstance(value, bool) is not isinstance(
                self.default, bool
            ):
                raise InputError(f"{where}; choose from {', '.join(map(str, self.choices))}")
        elif self.type is bool:
            if not isinstance(value, bool):
                raise InputError(f"{where}; give true or false")
        elif self.type is int:
            if not isinstance(value, int) or isinstance(value, bool):
                raise InputError(f"{where}; give a whole number")
        elif self.type is float:
            if not _is_number(value):
                raise InputError(f"{where}; give a number{_as_text(value)}")
        elif self.type is list:
            if not isinstance(value, list | tuple) or not value or not all(map(_is_number, value)):
                raise InputError(f"{where}; give a list of numbers{_as_text(value)}")
        elif self.type is dict:
            if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
                raise InputError(f"{where}; give settings by name, as {{name: value}}")
            for name, entry in value.items():
                if not (_is_entry(entry) or isinstance(entry, bool)):
                    raise InputError(
                        f"{where}; {name} must be a number or a list of numbers{_as_text(entry)}"
                    )
        elif self.type is str and not isinstance(value, str):
            raise InputError(f"{where}; give text")


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < 1e300  # neither NaN nor infinite


def _is_entry(value: Any) -> bool:
    """Tell numbers, and lists of numbers, from everything else."""
    is_list = isinstance(value, list | tuple) and bool(value) and all(map(_is_number, value))
    return is_list or _is_number(value)


def _as_text(value: Any) -> str:
    """Say why YAML takes 1e-4 for text."""
    texts = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)]
    return " (YAML reads 1e-4 as text; write 1.0e-4)" if any("e" in v for v in texts) else ""


@dataclass(frozen=True)
class Shown:
    """What a page says and draws of a result.

    Attributes
    ----------
    summary
        The result in one or two sentences, with its uncertainty.
    figures
        Figure, alternative text and caption of each picture.
    viewer
        Slices to scroll through and enlarged parts of them, as `pvsbook.report.html_page`
        describes; none by default.
    """

    summary: str
    figures: Sequence[tuple[Figure, str, str]]
    viewer: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Method:
    """A way from scans to numbers.

    Attributes
    ----------
    name
        Command, key of settings, and part of the names of results.
    title
        Heading of its pages.
    help
        What its command does, in a line.
    inputs
        The files of a scan, in the order of `measure`'s arguments.
    options
        Every setting; `measure` takes them as keywords.
    measure
        ``measure(*inputs, **options)`` returns a `Result`.
    validate
        Refuses options (all of them, by name) that cannot work together, whatever the scan.
    settle
        Replaces what a choice means on this machine ("auto"), so that a record says what it was.
    columns_at
        Where the BIDS dictionary lies that says what each column of ``Result.to_row()`` means
        (``pvsbook.pvs.pipeline.COLUMNS``); `columns` loads it when it is needed.
    show
        Draws a result and says it in words.
    find
        Finds the inputs among the files of one visit (see `pvsbook.visit.Visit`), of each series
        that can be measured alone, in the order in which statistics take them; None where two
        visits are compared.
    preference
        That order, in words.
    limits
        What a result cannot show, in sentences.
    look
        ``look(found)`` says of what a result will warn, by the files alone; refuses as `measure`.
    prose
        ``prose(options, table)`` writes what a paper has to say of the measurements in a table.
    key_columns
        The columns that the page of a group draws, with the label of each.
    compared
        Those of them in which groups are compared, each ``"mean"`` or ``"count"``.
    datatype, suffix
        Where results go: ``anat`` or ``dwi``, and the BIDS suffix of the tables.
    desc
        Further entity of the result's files, where two methods share a suffix.
    compares
        Name of the method whose scans at two visits this one compares; empty for one scan.
    pair
        Makes the inputs of a comparison: ``pair(first, later, first_session)``, of what
        `compares` found at the visits.
    trend, trend_columns_at
        Of one that compares: ``trend([(years, row), ...])`` makes a table of change per year, from
        the rows of a person's later visits; where its dictionary of columns lies.
    shares
        Options that are the scanner's, and so hold for `compares` and this method alike.
    core, kept_back
        Path of the function of the library that measures (``pvsbook.pvs.pipeline.measure``), and
        those of its keywords that are no option, each with the reason.
    """

    name: str
    title: str
    help: str
    inputs: tuple[Input, ...]
    options: tuple[Option, ...]
    measure: Callable[..., Any]
    columns_at: str
    show: Callable[[Any], Shown]
    find: Callable[[Any], Any] | None
    limits: tuple[str, ...]
    key_columns: Mapping[str, str]
    datatype: str
    suffix: str
    desc: str = ""
    preference: str = "name"
    prose: Callable[[Mapping[str, Any], pd.DataFrame], str] | None = None
    look: Callable[[Any], list[str]] | None = None
    validate: Callable[[Mapping[str, Any]], None] | None = None
    settle: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    compares: str = ""
    pair: Callable[[Any, Any, str], Any] | None = None
    trend: Callable[[Any], pd.DataFrame] | None = None
    trend_columns_at: str = ""
    compared: Mapping[str, str] = field(default_factory=dict)
    shares: tuple[str, ...] = ()
    core: str = ""
    kept_back: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def columns(self) -> Columns:
        """What each column of a row means."""
        return _load(self.columns_at)

    @property
    def trend_columns(self) -> Columns:
        """What each column of the table of change per year means."""
        return _load(self.trend_columns_at)

    @property
    def defaults(self) -> dict[str, Any]:
        """Value of each option that holds for all participants, where nothing is set."""
        return {o.name: o.default for o in self.options if not o.is_of_one_participant}

    def settled(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return options with what `settle` makes of them."""
        return options if self.settle is None else self.settle(options)

    def check(self, settings: Mapping[str, Any], where: str, *, for_all: bool = False) -> None:
        """Refuse settings that cannot work on any scan, alone or together.

        Parameters
        ----------
        settings
            Values by name; the other options have their defaults.
        where
            What to name in an error.
        for_all
            Whether they hold for all participants, so that no file of one can be among them.

        Raises
        ------
        InputError
            An unknown option, one that is a file of one participant, a value that it cannot
            have, or values that do not fit together.
        """
        options = {o.name: o for o in self.options if not (for_all and o.is_of_one_participant)}
        unknown = [str(name) for name in settings if name not in options]
        if unknown:
            raise InputError(
                f"{where}: {self.name} has no option {', '.join(unknown)}; "
                f"it has {', '.join(options)}"
            )
        for name, value in settings.items():
            is_pair = isinstance(value, tuple) and len(value) == 2 and name in self.shares
            for one in value if is_pair else (value,):  # of each visit
                options[name].check(one, f"{where}: {self.name}")
        if settings and self.validate is not None:
            try:
                self.validate({**{o.name: o.default for o in self.options}, **settings})
            except InputError as error:
                raise InputError(f"{where}: {self.name}: {error}") from error


def _load(place: str) -> Columns:
    module, _, name = place.rpartition(".")
    return getattr(import_module(module), name)


def describe_columns(*rows: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Make a BIDS dictionary of columns from rows of name, meaning and, where it has one, unit.

    Examples
    --------
    >>> describe_columns(("n", "objects"), ("volume_mm3", "their volume", "mm3"))["volume_mm3"]
    {'Description': 'their volume', 'Units': 'mm3'}
    """
    return {
        name: {"Description": meaning, **({"Units": unit[0]} if unit else {})}
        for name, meaning, *unit in rows
    }
