"""Write the page that ``dvc plots`` fills (its ``plots.html_template``), with its scripts inside: it works offline."""

from pathlib import Path

import vl_convert

PAGE = Path(".dvc/tmp/plots.html")
PARTS = ("vega", "vegaLite", "vegaEmbed")


def main() -> None:
    """Write it; DVC replaces the names in braces."""
    scripts = vl_convert.javascript_bundle("".join(f"window.{part}={part};" for part in PARTS))
    head = f'<meta charset="utf-8"><title>Plots</title>{{refresh_tag}}<script>{scripts}</script>'
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(f"<!DOCTYPE html><html><head>{head}</head><body>{{plot_divs}}</body></html>", "utf-8")


if __name__ == "__main__":
    main()
