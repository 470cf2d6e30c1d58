"""The command of a method, made from its `pvsbook.method.Method`."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pvsbook._console import console
from pvsbook._errors import InputError
from pvsbook._yaml import read_yaml
from pvsbook.method import Method, Option

if TYPE_CHECKING:
    from pvsbook.bids.measure import Done

OUT = "Folder for the results (BIDS-Derivatives)."


def make_command(method: Method) -> Callable[..., None]:
    """Make the command of a method: its inputs, its options, and where results go."""
    from pvsbook.bids.measure import measure_files

    def command(**values: Any) -> None:
        inputs = {i.name: values.pop(i.name) for i in method.inputs}
        out = values.pop("out")
        options = {o.name: _read(o, values[o.name]) for o in method.options}
        _say(measure_files(method, inputs, out, **options))

    parameters = [_parameter("out", Path, Parameter.empty, typer.Option("--out", help=OUT))]
    for i in method.inputs:
        info = (
            typer.Option(flag_of(i.name), help=i.help)
            if i.is_option
            else typer.Argument(help=i.help)
        )
        parameters.append(
            _parameter(i.name, list[Path] if i.is_several else Path, Parameter.empty, info)
        )
    parameters += [_of_option(option) for option in method.options]
    parameters.sort(key=lambda p: p.default is not Parameter.empty)
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    command.__doc__ = method.help
    return command


def flag_of(name: str) -> str:
    """Return the flag of an argument."""
    return "--" + name.replace("_", "-")


def _parameter(name: str, kind: Any, default: Any, info: Any) -> Parameter:
    return Parameter(
        name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
    )


def _of_option(option: Option) -> Parameter:
    """Make the parameter of a command line: text, for what the command line has no type for."""
    flag = option.command_line
    text = option.help
    if option.flag_value is not None:
        return _parameter(option.name, bool, False, typer.Option(flag, help=text))
    if option.type is bool:
        return _parameter(option.name, bool, option.default, typer.Option(flag, help=text))
    kind: Any = str if option.type in (list, dict) else option.type
    if option.choices and not option.or_file:
        kind = Literal[option.choices]
    default = None if option.type in (list, dict) else option.default
    if default is None:
        kind = kind | None
    return _parameter(option.name, kind, default, typer.Option(flag, help=text))


def _read(option: Option, value: Any) -> Any:
    """Turn what stood on the command line into the value of an option."""
    if option.flag_value is not None:
        return option.flag_value if value else option.default
    if value is None:
        return option.default
    flag = option.command_line
    if option.type is list:
        return _numbers(value, flag)
    return _mapping(value, flag) if option.type is dict else value


def _mapping(text: str, flag: str) -> Any:
    try:
        return read_yaml(text)
    except ValueError as error:
        raise InputError(
            f"{flag}: {text!r} cannot be read ({error}); write {{name: value}}"
        ) from None


def _numbers(text: str, flag: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"{flag}: {text!r} is not a list of numbers; write it as 0.004,0.008,0.012"
        ) from None


def _say(done: Done) -> None:
    """Print the result, its quality and where the page lies."""
    out = console()
    out.print(done.summary, markup=False)
    out.print(f"Quality: {done.status}", markup=False)
    for reason in done.reasons:
        out.print(f"  - {reason}", markup=False)
    out.print(f"Report: {done.report}", markup=False, soft_wrap=True)
