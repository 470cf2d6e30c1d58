"""Write the Boutiques descriptor of ``pvsbook run`` from the command itself.

``python tools/boutiques_descriptor.py`` writes ``containers/pvsbook.json``; `bosh` validates and
runs it (https://boutiques.github.io).
"""

from __future__ import annotations

import json
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pvsbook._run_command import LEVELS, run
from pvsbook._version import __version__

WHERE = Path(__file__).parents[1] / "containers" / "pvsbook.json"


def descriptor() -> dict[str, Any]:
    """Describe inputs and outputs of the command, as version 0.5 of the schema has it.

    Returns
    -------
    dict
        Content of the JSON file.
    """
    hints = get_type_hints(run, include_extras=True)
    parameters = signature(run).parameters.values()
    inputs = [_input(p, hints[p.name]) for p in parameters if p.name != "version"]
    return {
        "name": "pvsbook",
        "description": "Perivascular spaces, ALPS and QSM of a BIDS folder.",
        "author": "The pvsbook authors",
        "tool-version": __version__,
        "schema-version": "0.5",
        "command-line": "pvsbook run " + " ".join(i["value-key"] for i in inputs),
        "container-image": {
            "type": "docker",
            "image": f"pvsbook:{__version__}",
            "entrypoint": False,
        },
        "inputs": inputs,
        "output-files": [
            {
                "id": "results",
                "name": "Results",
                "description": "Folder of BIDS-Derivatives.",
                "path-template": "[OUT_DIR]",
            }
        ],
    }


def _input(parameter: Parameter, hint: Any) -> dict[str, Any]:
    """Describe an argument or option from what Typer makes it of."""
    name, (kind, info) = parameter.name, get_args(hint)
    optional = parameter.default is not Parameter.empty
    kind = next((k for k in get_args(kind) if k is not type(None)), kind) if optional else kind
    several = get_origin(kind) is list
    kind = get_args(kind)[0] if several else kind
    entry: dict[str, Any] = {
        "id": name,
        "name": name.replace("_", " "),
        "description": info.help,
        "value-key": f"[{name.upper()}]",
        "type": {bool: "Flag", int: "Number", float: "Number", Path: "File"}.get(kind, "String"),
        "optional": optional,
    }
    if optional:
        flags = [f for f in (info.default, *info.param_decls) if str(f).startswith("--")]
        entry["command-line-flag"] = next(iter(flags), "--" + name.replace("_", "-"))
    if kind is int:
        entry["integer"] = True
    if several:
        entry["list"] = True
    if name in ("out_dir", "work_dir"):  # made by the command
        entry["type"] = "String"
    if name == "level":
        entry["value-choices"] = list(LEVELS)
    return entry


def main() -> None:
    """Write the file."""
    WHERE.write_text(json.dumps(descriptor(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
