__version__ = "0.1.0"


def required(extra: str = "") -> list[str]:
    """Name the packages that this version is declared to need: always, or for an extra."""
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    declared = [Requirement(line) for line in requires("pvsbook") or ()]
    markers = [(r, r.marker is None or r.marker.evaluate({"extra": ""})) for r in declared]
    if not extra:
        return [r.name for r, always in markers if always]
    return [r.name for r, always in markers if not always and r.marker.evaluate({"extra": extra})]
