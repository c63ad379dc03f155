"""What the report quotes from the project's own pages: the paper's errata, and the committed study's verdicts."""

import re
from pathlib import Path

from markdown_it import MarkdownIt

ERRATA, STUDY = Path("docs/errata.md"), Path("docs/study.md")
CLAIMS = "### The paper's claims\n"
COLUMNS = ["claim", "paper", "ours", "verdict"]


def errata() -> str | None:
    """Return the errata as HTML without links, headings one level lower; ``None`` where the page is not at hand."""
    if not ERRATA.is_file():
        return None
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    for part in ("link_open", "link_close"):
        reader.add_render_rule(part, lambda *_: "")  # they lead to files that the report does not hold
    text = ERRATA.read_text("utf-8").partition("\n")[2]  # without its title
    content = reader.render(text.replace("\n## ", "\n### "))
    begin = '<div class="scroll" tabindex="0" role="region" aria-label="errata"><table class="words">'
    return str(content.replace("<table>", begin).replace("</table>", "</table></div>"))


def claims() -> list[dict[str, str]] | None:
    """Return the committed study's claims, and each verdict's kind; ``None`` where there is no such page or table.

    A ``ValueError`` says that the table has other columns than ``COLUMNS``.
    """
    text = STUDY.read_text("utf-8") if STUDY.is_file() else ""
    lines = text.partition(CLAIMS)[2].partition("\n\n![")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    if not rows:
        return None
    if any(len(row) != len(COLUMNS) for row in rows) or rows[0] != COLUMNS:
        raise ValueError(f"expected a table of {COLUMNS} under {CLAIMS.strip()!r} in {STUDY}, found {rows[0]}; "
                         "run `make facts` after `make study`")  # fmt: skip
    kinds = (re.sub(" only if .*", " only if …", row[-1]) for row in rows[2:])
    return [dict(zip(COLUMNS, row, strict=True), kind=kind) for row, kind in zip(rows[2:], kinds, strict=True)]
