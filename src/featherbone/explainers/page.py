"""An explanation as one HTML page that needs nothing else."""

import io
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path

from featherbone.explainers.figures import Picture, Section
from featherbone.files import write_text
from featherbone.results import Classification

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6878; --page: #f6f7f9; --card: #fff; --line: #e1e5ea;
  --bar: #4c6fff; --warning: #94600a; --warned: #fff6e5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #9aa5b4; --page: #14181e; --card: #1d232b;
  --line: #323a45; --bar: #7b95ff; --warning: #f0bd63; --warned: #2c2517; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 80rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.6rem; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .25rem; font-size: 1.15rem; }
p { margin: .25rem 0; max-width: 52rem; }
.soft, figcaption { color: var(--soft); }
.warning { margin: 1rem 0; padding: .8rem 1.1rem; max-width: none; border-left: .3rem solid var(--warning);
  border-radius: .4rem; background: var(--warned); }
figure { margin: .75rem 0; padding: 1rem; background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  max-width: 100%; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: .3rem; }
figcaption { margin-top: .6rem; font-size: .9rem; max-width: 60rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin-top: .75rem; }
td { padding: .1rem .9rem .1rem 0; overflow-wrap: anywhere; }
td:last-child { text-align: right; font-variant-numeric: tabular-nums; }
progress { width: 14rem; accent-color: var(--bar); }
"""


def write_page(
    path: Path, model: str, subtitle: str, warning: str, record: Classification | None, sections: Sequence[Section]
) -> None:
    """Write the page: what a run says of the image, then every section with its pictures."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    warned = f'<p class="warning">{escape(warning)}</p>' if warning else ""
    write_text(
        path,
        f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>What {escape(model)} looked at</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>What {escape(model)} looked at</h1>
<p class="soft">{escape(subtitle)}</p>
{warned}{_classes(record)}
{"".join(map(_section, sections))}
</body>
</html>
""",
    )


def _classes(record: Classification | None) -> str:
    if record is None:
        return ""
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td><progress value="{score:.4f}"></progress></td><td>{score:.1%}</td></tr>'
        for name, score in zip(record.names, record.scores, strict=True)
    )
    return f"<table>{rows}</table>"


def _section(section: Section) -> str:
    text = f'<p class="soft">{escape(section.text)}</p>' if section.text else ""
    return f"<section><h2>{escape(section.title)}</h2>{text}{''.join(map(_figure, section.pictures))}</section>\n"


def _figure(picture: Picture) -> str:
    file = io.BytesIO()
    picture.image.save(file, "JPEG", quality=90)
    source = f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}"
    width, height = picture.image.size
    caption = escape(picture.caption)
    return (
        f'<figure id="{escape(picture.name)}" style="width: calc({width}px + 2rem + 2px)">'
        f'<img src="{source}" width="{width}" height="{height}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
