"""The page of parameters, from the schema of ``params.yaml``: ``make facts``."""

from pathlib import Path
from typing import Any

from pipeline import params

HEAD = """# Parameters

Every parameter of `params.yaml`, with its default, its range and its meaning. This page is made from the schema
(`pipeline/params.py`), which also checks the file: `make repro` lists all faults at once, each with its place and what
was expected. `python -m pipeline.params compose PROFILE` writes a complete file from a profile.

| parameter | default | range | meaning |
| --- | --- | --- | --- |
"""


def _range(about: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return what values a field takes, in a few characters."""
    if "$ref" in about:
        about = definitions[about["$ref"].rpartition("/")[2]]
    options = [_range(one, definitions) for one in about.get("anyOf", [])]
    if options:
        return " or ".join(dict.fromkeys(text for text in options if text))
    if "enum" in about or "const" in about:
        return ", ".join(map(str, about.get("enum", [about.get("const")])))
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    ends = [f"{sign} {about[key]:g}" for key, sign in signs.items() if key in about]
    kind = {"integer": "integer", "number": "number", "string": "text", "array": "list", "boolean": "true, false",
            "null": "null", "object": "mapping"}.get(about.get("type", ""), "")  # fmt: skip
    return " ".join([kind, *ends])


def _rows(name: str, about: dict[str, Any], definitions: dict[str, Any], default: Any) -> list[str]:  # noqa: ANN401
    """Return the rows of a field, those of a section's fields included."""
    target = about
    for ref in [about, *about.get("allOf", [])]:
        if "$ref" in ref:
            target = definitions[ref["$ref"].rpartition("/")[2]]
    if "properties" in target:
        lines = []
        for key, inner in target["properties"].items():
            known = default.get(key) if isinstance(default, dict) else inner.get("default")
            lines += _rows(f"{name}.{key}".lstrip("."), inner, definitions, known)
        return lines
    shown = "see the file" if isinstance(default, (dict, list)) and len(str(default)) > 40 else default
    shown = "none" if shown is None else str(shown).lower() if isinstance(shown, bool) else shown
    cells = [f"`{name}`", f"`{shown}`", _range(about, definitions), about.get("description", "")]
    return [f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"]


def page() -> str:
    """Return the page as Markdown."""
    schema = params.Params.model_json_schema()
    return HEAD + "\n".join(_rows("", schema, schema.get("$defs", {}), params.Params().model_dump(mode="json"))) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("parameters.md").write_text(page(), encoding="utf-8")
