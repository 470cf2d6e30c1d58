"""YAML as the manifest and files of settings hold it: no key twice."""

from __future__ import annotations

from typing import Any

import yaml

_Yaml: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MAX_DEPTH = 50  # the C loader crashes on 100 000 brackets


class _Loader(_Yaml):
    """YAML itself lets the last of two equal keys win, without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {min(twice)!r} stands twice; remove one", node.start_mark
            )
        return super().construct_mapping(node, deep=deep)


def read_yaml(text: str) -> Any:
    """Read plain values.

    Raises
    ------
    ValueError
        Not YAML, nested too deeply, or a key that stands twice.  The message is one line.
    """
    try:
        depth = 0
        for event in yaml.parse(text, _Loader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ValueError(f"nested more than {MAX_DEPTH} deep")
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, TypeError) as error:  # TypeError: a list as a key
        text = str(error).replace('in "<unicode string>", ', "at ")
        raise ValueError(" ".join(text.split())) from None
