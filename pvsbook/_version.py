__version__ = "0.1.0"


def required(extra: str = "") -> list[str]:
    """Name the packages that this version is declared to need: always, or for an extra."""
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    declared = [Requirement(line) for line in requires("pvsbook") or ()]
    environment = {"extra": extra}
    for_extra = [r for r in declared if r.marker is not None and "extra" in str(r.marker)]
    always = [r for r in declared if r not in for_extra]
    chosen = for_extra if extra else always
    return [r.name for r in chosen if r.marker is None or r.marker.evaluate(environment)]
