"""Pages of reports: one HTML file, without references to other files."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from pddm_jax.system.files import write_text


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("pddm_jax.report")
    return jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _scripts() -> str:
    """Vega, Vega-Lite and Vega-Embed, as text of a script element."""
    import vl_convert  # a large library that only reports need

    bundle = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    return re.sub("</(?=script)", r"<\\/", bundle, flags=re.IGNORECASE)


def write_page(path: Path, template: str, fields: Mapping[str, Any]) -> None:
    """Write a page.

    Every string of `fields` is escaped, in text, in attributes and in the JSON of the scripts.

    Args:
        path: of the page; an existing file is replaced atomically.
        template: name of a file in `templates/`.
        fields: what the template names; "charts" holds Vega-Lite specifications by name.

    Raises:
        NotWritten: the disk is full, or the folder cannot be written.
    """
    scripts = _scripts() if fields["charts"] else ""
    text = _environment().get_template(template).render(scripts=scripts, **fields)
    write_text(path, text.encode("utf-8", "backslashreplace").decode())  # names of files may not be UTF-8
