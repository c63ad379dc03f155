"""Files of parameters, whatever the schema: read with care, faults named, written with meanings at line ends."""

import difflib
import io
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from pipeline.common import paths

MAX_BYTES = 1 << 16  # a larger file is refused unread: a full one has 10 kB
MAX_DEPTH = 16  # nesting of a file; the schema has 7 levels
MAX_FAULTS = 20  # faults listed in one message
WIDTH = 120  # of a file that is written
UNION_MEMBERS = ("int", "str", "constrained-int", "constrained-str")  # pydantic's, no part of a parameter's name


def _outside(place: str) -> str:
    outputs = (paths.RAW, paths.SEQUENCES, paths.FRAMES, paths.FEATURES, paths.RUNS, paths.RESULTS)
    own = next((folder for folder in outputs if Path(place).resolve().is_relative_to(folder.resolve())), None)
    if own is not None:
        raise ValueError(f"expected a place outside {own}, an output that DVC removes before its stage runs; move it")
    return place


def _once(names: list[Any]) -> list[Any]:
    if len(set(names)) != len(names):
        raise ValueError(f"expected each name once, found repeats in {value_of(names)}; remove them")
    return names


def _compiles(pattern: str) -> str:
    """Compile a pattern now: the stage that uses it may have hours of unpacking before it."""
    try:
        groups, fault = re.compile(pattern).groups, "no group"
    except (re.error, RecursionError, OverflowError) as error:
        groups, fault = 0, str(error)
    if not groups:
        raise ValueError(f"expected a regular expression with a group (…), found {value_of(pattern)} ({fault})")
    return pattern


def _named(value: object) -> object:
    """Read "none" as None: DVC watches every path that is named here, and there is a file of that name for it."""
    if value is None:
        raise ValueError("expected a path or the word none, found null; write none")
    return None if value == "none" else value


Name = TypeVar("Name")
Once = Annotated[list[Name], AfterValidator(_once), Field(min_length=1)]
Line = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f]+$")]
PathText = Annotated[
    Annotated[Line, AfterValidator(_outside)] | None,
    BeforeValidator(_named),
    PlainSerializer(lambda place: "none" if place is None else place),
]
Pattern = Annotated[Line, AfterValidator(_compiles)]


class ParamsError(ValueError):
    """A parameter file that cannot be used; the message lists every fault with its place and remedy."""


class Section(BaseModel):
    """Base of all sections: unknown keys and silent conversions are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    inline: ClassVar[bool] = False  # written on one line


def _refused(text: str) -> str | None:
    """Return what makes YAML too costly to load, if anything does: parameters need neither aliases nor depth."""
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        # Aliases of aliases (or merge keys) make a small file exponentially large.
        if isinstance(event, AliasEvent):
            return f"the alias *{shown(event.anchor)} in line {event.start_mark.line + 1}; write the value out"
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            return f"more than {MAX_DEPTH} nested values in line {event.start_mark.line + 1}"
    return None


def read(source: Path) -> dict[str, Any]:
    """Read a mapping from a YAML file; :class:`ParamsError` says that it is missing, too large, or no such mapping."""
    if not source.is_file():
        raise ParamsError(f"expected a parameter file at {source}, found none; run from the project's root")
    if (size := source.stat().st_size) > MAX_BYTES:
        raise ParamsError(f"expected a parameter file under {MAX_BYTES} bytes, found {size} in {source}; shorten it")
    try:
        text = source.read_text(encoding="utf-8")
        refused = _refused(text)
        content = None if refused else YAML(typ="safe", pure=True).load(text)
    except Exception as error:  # on hostile text the parser also raises KeyError, IndexError, RecursionError, …
        raise ParamsError(f"expected valid YAML in {source}, found {type(error).__name__}: {error}") from error
    if refused:
        raise ParamsError(f"expected plain YAML in {source}, found {refused}")
    content = {} if content is None else content
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ParamsError(f"expected a mapping with string keys in {source}, found {type(content).__name__}")
    return content


def shown(text: str, most: int = 80) -> str:
    """Return text for a message: short, and with escapes for what a terminal would obey or turn round."""
    short = text if len(text) <= most else text[:most] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)


def value_of(value: object) -> str:
    """Return a value for a message."""
    try:
        return shown(reprlib.repr(value))
    except ValueError:  # an integer of more digits than Python writes
        return f"{type(value).__name__} of thousands of digits"


def faults(error: ValidationError, schema: type[Section], within: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield what is wrong, parameter by parameter; an unknown one with the nearest name that there is anywhere."""
    known = {name for part in schema.model_json_schema()["$defs"].values() for name in part.get("properties", ())}
    known |= schema.model_fields.keys()
    for fault in error.errors(include_url=False):
        place = (*within, *(part for part in fault["loc"] if part not in UNION_MEMBERS))
        name = shown(".".join(map(str, place))) or "(whole file)"
        if fault["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(place[-1])[:80], known - {place[-1]}, n=1)
            yield f"{name}: unknown parameter; " + (f"did you mean {near[0]!r}?" if near else "remove it")
        else:
            complete = fault["type"] == "value_error" and "found" in fault["msg"]
            message = fault["msg"].removeprefix("Value error, ")
            yield f"{name}: {message}" + ("" if complete else f"; found {value_of(fault['input'])}")


def refuse(source: str, listed: Sequence[str]) -> None:
    """Raise one :class:`ParamsError` for all faults of a file, if there are any."""
    if listed:
        more = [f"and {len(listed) - MAX_FAULTS} more"] if len(listed) > MAX_FAULTS else []
        raise ParamsError("\n  ".join([f"{source} has {len(listed)} fault(s):", *listed[:MAX_FAULTS], *more]))


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` laid over it, key by key at all levels."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def missing(content: Mapping[str, Any], section: Section, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield the name of every parameter of a section that content lacks, and the line of YAML that adds its default."""
    for key, value in section:
        if key not in content:
            yield f"{place}{key}", shown(f"{key}: {_flow(section.model_dump()[key])}", 1000)
        elif isinstance(value, Section) and isinstance(content[key], Mapping):
            yield from missing(content[key], value, f"{place}{key}.")


def _flow(value: object) -> str:
    """Return a value as YAML on one line."""
    stream, writer = io.StringIO(), YAML(typ="safe", pure=True)
    writer.width, writer.default_flow_style = 1 << 20, True
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    writer.dump({"x": value}, stream)
    return stream.getvalue().strip().removeprefix("{x: ").removesuffix("}")


def _folded(value: Any, before: str) -> list[str]:  # noqa: ANN401 - what YAML can hold
    """Return a value as YAML after ``before`` on one line, or on as few as hold it, divided where its parts end."""
    text, indent = _flow(value), " " * (len(before) - len(before.lstrip()) + 2)
    if len(before) + 1 + len(text) <= WIDTH or not isinstance(value, dict | list):
        return [f"{before} {text}"]
    parts = [(f"{k}:", v) for k, v in value.items()] if isinstance(value, dict) else [("", v) for v in value]
    done, line, space = list[str](), f"{before} {text[0]}", ""
    for number, (name, part) in enumerate(parts, 1):
        whole, end = f"{name} {_flow(part)}".lstrip(), "," if number < len(parts) else text[-1]
        if len(line + space + whole + end) > WIDTH:
            *more, whole = _folded(part, indent + name) if len(indent + whole + end) > WIDTH else [indent + whole]
            done += [line, *more]
            line, space = "", ""
        line, space = line + space + whole + end, " "
    return [*done, line]


def _nested(value: object, told: set[type]) -> bool:
    """Whether a value goes on a line for each of its own: a section whose kind is new, or a mapping that has sections.

    A mapping of three levels does, too.
    """
    if isinstance(value, Section):
        return not value.inline and type(value) not in told
    return isinstance(value, Mapping) and (_depth(value) > 2 or any(isinstance(v, Section) for v in value.values()))


def _depth(value: object) -> int:
    """Return how many levels of mappings a value has."""
    return 1 + max(map(_depth, value.values()), default=0) if isinstance(value, Mapping) else 0


def lines(section: Section | Mapping[str, Any], told: set[type], indent: str = "") -> Iterator[str]:
    """Yield a section as lines of YAML, each after ``indent``.

    The first section of a kind says at each line's end what it means, others are written as densely as fits; ``told``
    are the kinds that have said it, and grows.
    """
    fields = type(section).model_fields if isinstance(section, Section) and type(section) not in told else {}
    told.add(type(section))
    plain = section.model_dump() if isinstance(section, Section) else section
    for key, value in dict(section).items():
        note = fields[key].description if key in fields else None
        if key in fields and isinstance(value, Section) and type(value) not in told:
            note = (type(value).__doc__ or "").split("\n")[0].removesuffix(".")
        nested = _nested(value, told)
        flat = value.model_dump() if isinstance(value, Section) else plain[key]
        head, *rest = [f"{indent}{key}:"] if nested else _folded(flat, f"{indent}{key}:")
        yield f"{head:<34}  # {note}" if note and not rest else head
        yield from rest
        yield from lines(value, told, indent + "  ") if nested else ()
        told.add(type(value))
