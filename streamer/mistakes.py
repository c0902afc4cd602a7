"""Where a setting was written and what was probably meant: lines of YAML, environment variables, `--set`.

Knows paths, text and JSON Schema; knows neither pydantic nor any setting.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from streamer.errors import ConfigurationError

Path = tuple[str | int, ...]
"""A place in nested settings: `("pipelines", "speech", "engine")`; list positions are integers."""

ENV_PREFIX = "STREAMER_"


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong: where it is written, its dotted path, and what to do about it."""

    path: Path
    message: str


@dataclass(slots=True)
class Origins:
    """What was written where. Later sources win: the file, the environment, the command line."""

    file: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    root: yaml.Node | None = None
    environment: frozenset[str] = frozenset()
    overrides: Mapping[Path, Any] = field(default_factory=dict)

    def where(self, path: Path) -> str:
        """`file:line`, an environment variable or a `--set` argument; empty for a default."""
        for i in range(len(path), 0, -1):
            if path[:i] in self.overrides:
                return f"--set {dotted(path[:i])}"
            if (name := ENV_PREFIX + "__".join(str(p) for p in path[:i]).upper()) in self.environment:
                return f"environment variable {name}"
        if self.root is None:
            return ""
        return f"{self.file}:{line_of(self.root, path)}"


def read_yaml(text: str, file: str) -> Origins:
    """Parse settings; an empty text is no settings. Raises ConfigurationError for what is no mapping, with its line."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        if isinstance(error, yaml.composer.ComposerError | yaml.constructor.ConstructorError):  # it repeats the value
            raise ConfigurationError(f"{file}:{line}: put a value that begins with * or ! in quotes") from None
        raise ConfigurationError(f"{file}:{line}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{file}: not valid YAML: {error}") from error
    if data is None:
        return Origins(file)
    if not isinstance(data, dict):
        raise ConfigurationError(f"{file}:1: settings are a mapping of names to values, not a {type(data).__name__}")
    return Origins(file, data, root)


def duplicate_keys(node: yaml.Node | None, path: Path = ()) -> list[Mistake]:
    """Keys that stand twice in one mapping; YAML would silently keep the last."""
    found: list[Mistake] = []
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                found.append(Mistake((*path, name), f"stands twice; it is also on line {seen[name]}"))
            seen[name] = key.start_mark.line + 1
            found += duplicate_keys(value, (*path, name))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            found += duplicate_keys(value, (*path, index))
    return found


def line_of(node: yaml.Node, path: Path) -> int:
    """The line, from 1, of the deepest part of `path` that is written."""
    line = node.start_mark.line + 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            entry = next(((k, v) for k, v in reversed(node.value) if str(k.value) == str(part)), None)
            if entry is None:
                break
            line, node = entry[0].start_mark.line + 1, entry[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def parse_override(text: str) -> tuple[Path, Any]:
    """`pipelines.speech.engine.max_batch=32` as a path and a value, which is read as YAML."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        shown = "" if "password" in text else f" {text}"
        raise ConfigurationError(f"--set{shown}: write it as name.of.setting=value")
    path = tuple(int(p) if p.isdigit() else p for p in name.strip().split("."))
    try:
        return path, yaml.safe_load(value)
    except yaml.YAMLError as error:
        problem = "" if "password" in name else f": {error}"  # which repeats the value
        raise ConfigurationError(f"--set {name}: the value is not valid YAML{problem}") from None


def put(data: Any, path: Path, value: Any) -> Any:
    """A copy of `data` with `value` at `path`; missing mappings are made. Raises KeyError for a list without it."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(data, list):
        if not isinstance(head, int) or head >= len(data):
            raise KeyError(head)
        return [put(item, rest, value) if i == head else item for i, item in enumerate(data)]
    known = data if isinstance(data, dict) else {}
    return known | {str(head): put(known.get(str(head)), rest, value)}


def merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`; mappings are merged, everything else is replaced."""
    merged = dict(below)
    for name, value in above.items():
        known = merged.get(name)
        merged[name] = merge(known, value) if isinstance(known, dict) and isinstance(value, Mapping) else value
    return merged


def known_names(schema: Mapping[str, Any], path: Path, data: Any) -> list[str]:
    """The names a JSON Schema allows in the mapping at `path`; `data` picks the branch of a tagged union."""
    definitions: Mapping[str, Any] = schema.get("$defs", {})
    node = _resolve(schema, definitions, data)
    for part in path:
        data = _child(data, part)
        if part in node.get("properties", {}):
            node = node["properties"][part]
        else:
            node = node.get("items", {}) if isinstance(part, int) else node.get("additionalProperties") or {}
        node = _resolve(node if isinstance(node, dict) else {}, definitions, data)
    return list(node.get("properties", {}))


def _child(data: Any, part: str | int) -> Any:
    if isinstance(data, dict):
        return data.get(part)
    return data[part] if isinstance(data, list) and isinstance(part, int) and part < len(data) else None


def _resolve(node: Mapping[str, Any], definitions: Mapping[str, Any], data: Any) -> Mapping[str, Any]:
    """Follow references; of a tagged union take the branch that the data names."""
    while True:
        if "$ref" in node:
            node = definitions[node["$ref"].rpartition("/")[2]]
        elif "discriminator" not in node and (parts := [p for p in node.get("anyOf", ()) if "$ref" in p]):
            # An optional part: the other branch is null.
            node = parts[0]
        elif "discriminator" in node:
            mapping = node["discriminator"]["mapping"]
            tag = _child(data, node["discriminator"]["propertyName"])
            if tag not in mapping:
                return {}
            node = {"$ref": mapping[tag]}
        else:
            return node


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, else the choices."""
    names = [str(k) for k in known]
    if close := difflib.get_close_matches(word, names, n=1, cutoff=0.6):
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(sorted(names))}" if names else ""


def dotted(path: Path) -> str:
    return ".".join(str(p) for p in path)


def raise_for(mistakes: Sequence[Mistake], origins: Origins) -> None:
    """Raise one ConfigurationError that lists every mistake in the order of the file; nothing when there is none."""
    if not mistakes:
        return
    lines = []
    for mistake in sorted(mistakes, key=lambda m: line_of(origins.root, m.path) if origins.root else 0):
        parts = (origins.where(mistake.path), dotted(mistake.path), mistake.message)
        lines.append(": ".join(part for part in (parts if mistake.path else parts[2:]) if part))
    raise ConfigurationError("\n".join(lines))
