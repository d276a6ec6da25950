"""An examination as one HTML page that needs nothing else."""

from base64 import b64encode
from collections.abc import Iterator
from html import escape
from pathlib import Path

from featherbone.data.doctor import Examination, Example, Finding
from featherbone.files import write_text

MOST_CLASSES = 40
"""With more, the chart shows the largest and the smallest."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6878; --page: #f6f7f9; --card: #fff; --line: #e1e5ea;
  --train: #3d6fb6; --val: #d98f2b; --error: #b3261e; --warning: #94600a; --note: #3d6fb6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #9aa5b4; --page: #14181e; --card: #1d232b;
  --line: #323a45; --train: #7ba7e6; --val: #e7ab5c; --error: #ff8a80; --warning: #f0bd63; --note: #8db4ee; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 68rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.6rem; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.1rem; }
h3 { margin: 0; font: 600 .95rem ui-monospace, monospace; }
p { margin: .25rem 0; }
.soft { color: var(--soft); }
.verdict { margin-top: .25rem; font-size: 1.1rem; }
.error { color: var(--error); } .warning { color: var(--warning); } .note { color: var(--note); }
.card { margin: .75rem 0; padding: 1rem 1.25rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem; }
.finding { border-left: .3rem solid currentcolor; }
.finding > * { color: var(--ink); }
.finding header { display: flex; flex-wrap: wrap; gap: .6rem; align-items: baseline; }
.message { white-space: pre-line; overflow-wrap: anywhere; }
.chart { display: grid; grid-template-columns: minmax(4rem, max-content) 1fr max-content; gap: .35rem .9rem;
  align-items: center; }
.chart .name { max-width: 16rem; overflow-wrap: anywhere; }
.chart .gap { grid-column: 1 / -1; }
.bars i { display: block; height: .5rem; border-radius: 0 .25rem .25rem 0; }
.bars i + i { margin-top: 2px; }
i.train { background: var(--train); } i.val { background: var(--val); }
.key { display: inline-block; width: .8rem; height: .5rem; border-radius: .15rem; margin-right: .3rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; color: var(--soft); font-size: .9rem; }
.examples { display: flex; flex-wrap: wrap; gap: 1.1rem; margin-top: .9rem; align-items: flex-start; }
figure { margin: 0; display: flex; flex-direction: column; gap: .35rem; }
.pictures { display: flex; gap: .25rem; align-items: flex-end; }
figure img { display: block; border-radius: .3rem; max-width: 128px; max-height: 100px; }
figcaption { max-width: 16rem; font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere; }
.narrow figcaption { max-width: 8.5rem; }
ul { margin: .6rem 0 0; padding-left: 1.2rem; font-size: .9rem; overflow-wrap: anywhere; }
"""


def write_page(examination: Examination, path: Path) -> None:
    """Write the page: the images of every class and split, and each finding with examples."""
    total = {split: sum(counts) for split, counts in examination.counts.items()}
    summary = ", ".join(f"{count:,} in {split}" for split, count in total.items() if count)
    images = f"{sum(total.values()):,} readable images of {len(examination.classes):,} classes"
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    findings = "".join(map(lambda finding: _finding(finding, examination.thumbnails), examination.findings))
    write_text(
        path,
        f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>Examination of {escape(Path(examination.data).name)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(Path(examination.data).name)}</h1>
<p class="soft">{escape(examination.data)}</p>
<p class="verdict">{_verdict(examination)}</p>
<h2>Images</h2>
<section class="card"><p>{images}{": " + summary if summary else ""}</p>{_chart(examination)}</section>
<h2>Findings</h2>
{findings or '<section class="card">Nothing to mend.</section>'}
</body>
</html>
""",
    )


def _verdict(examination: Examination) -> str:
    severities = [finding.severity for finding in examination.findings]
    counted = [
        f'<span class="{severity}">{count} {severity}{"s" if count > 1 else ""}</span>'
        for severity in ("error", "warning", "note")
        if (count := severities.count(severity))
    ]
    verdict = "Mend the errors before training" if examination.spoiled else "Fit for training"
    return f"{verdict}: {', '.join(counted)}" if counted else verdict


def _chart(examination: Examination) -> str:
    """Bars of each class, one a split; with many classes, those at both ends."""
    splits = [split for split, counts in examination.counts.items() if any(counts)]
    if not splits:
        return ""
    order = list(range(len(examination.classes)))
    gap = len(order) - MOST_CLASSES
    if gap > 0:
        order.sort(key=lambda k: -examination.counts[splits[0]][k])
    longest = max(max(examination.counts[split]) for split in splits)

    def row(k: int) -> str:
        bars = [(split, examination.counts[split][k]) for split in splits]
        drawn = "".join(f'<i class="{split}" style="width: {100 * n / longest:.1f}%"></i>' for split, n in bars)
        numbers = " / ".join(f"{n:,}" for _, n in bars)
        name = escape(examination.classes[k])
        return f'<span class="name">{name}</span><span class="bars">{drawn}</span><span class="number">{numbers}</span>'

    rows = [row(k) for k in (order if gap <= 0 else order[: MOST_CLASSES // 2] + order[-MOST_CLASSES // 2 :])]
    if gap > 0:
        rows.insert(MOST_CLASSES // 2, f'<span class="gap soft">{gap:,} more between these</span>')
    keys = "".join(f'<i class="key {split}"></i>{split} &ensp; ' for split in splits)
    return f'<p class="soft">{keys}</p><div class="chart">{"".join(rows)}</div>'


def _finding(finding: Finding, thumbnails: dict[str, bytes]) -> str:
    shown = [example for example in finding.examples if any(name in thumbnails for name in example.names)]
    listed = [example for example in finding.examples if example not in shown]
    more = finding.count - len(finding.examples)
    figures = (
        f'<div class="examples">{"".join(_figure(example, thumbnails) for example in shown)}</div>' if shown else ""
    )
    items = "".join(f"<li>{_caption(example, ', ', ' - ')}</li>" for example in listed)
    return f"""<section class="card finding {finding.severity}">
<header><h3>{escape(finding.code)}</h3><span class="{finding.severity}">{finding.severity}</span></header>
<p class="message">{escape(finding.message)}</p>{figures}{f"<ul>{items}</ul>" if items else ""}
{f'<p class="soft">and {more:,} more</p>' if finding.examples and more > 0 else ""}
</section>
"""


def _figure(example: Example, thumbnails: dict[str, bytes]) -> str:
    width = "wide" if len(example.names) > 1 else "narrow"
    return (
        f'<figure class="{width}"><div class="pictures">{"".join(_images(example, thumbnails))}</div>'
        f"<figcaption>{_caption(example)}</figcaption></figure>"
    )


def _images(example: Example, thumbnails: dict[str, bytes]) -> Iterator[str]:
    for name in example.names:
        if name in thumbnails:
            source = f"data:image/jpeg;base64,{b64encode(thumbnails[name]).decode()}"
            yield f'<img src="{source}" alt="{escape(name)}">'


def _caption(example: Example, between: str = "<br>", before_note: str = "<br>") -> str:
    names = between.join(escape(name).replace("/", "/<wbr>").replace("_", "_<wbr>") for name in example.names)
    return f'{names}<span class="soft">{before_note}{escape(example.note)}</span>' if example.note else names
