"""An examination as one HTML page that needs nothing else."""

from base64 import b64encode
from html import escape
from pathlib import Path

from featherbone.data.findings import Examination, Example, Finding, ObjectFacts, many
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
figure img { display: block; border-radius: .3rem; max-width: 220px; max-height: 220px; }
figcaption { max-width: 14rem; font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere; }
svg { display: block; width: 100%; max-width: 46rem; margin-top: .5rem; font-size: 11px; fill: var(--soft); }
svg .train { fill: var(--train); } svg .val { fill: var(--val); }
svg line { stroke: var(--line); } svg .stride { stroke: var(--soft); stroke-dasharray: 3 3; }
ul { margin: .6rem 0 0; padding-left: 1.2rem; font-size: .9rem; overflow-wrap: anywhere; }
"""


def write_page(examination: Examination, path: Path) -> None:
    """Write the page: images or objects of every class and split, sizes of objects, and each finding with examples."""
    thing = "object" if examination.objects else "image"
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    findings = "".join(map(_finding, examination.findings))
    key = '<p class="soft">Boxes are red, the second of two orange; masks are blue.</p>' if examination.objects else ""
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
<h2>{thing.title()}s</h2>
<section class="card">{_summary(examination, thing)}{_chart(examination)}</section>
{_sizes(examination.objects) if examination.objects else ""}
<h2>Findings</h2>{key}
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
    return f"{examination.verdict}: {', '.join(counted)}" if counted else examination.verdict


def _summary(examination: Examination, thing: str) -> str:
    total = {split: sum(counts) for split, counts in examination.counts.items()}
    parts = ", ".join(f"{count:,} in {split}" for split, count in total.items() if count)
    what = "readable images" if thing == "image" else "objects"
    lines = [f"{sum(total.values()):,} {what} of {many(examination.classes, 'class', 'classes')}: {parts}"]
    if facts := examination.objects:
        images = [
            f"{facts.images[split]:,} images in {split}, {facts.negatives[split]:,} of them without objects"
            for split in facts.images
            if facts.images[split]
        ]
        lines += ["; ".join(images), f"Objects in an image: {facts.median:g} in the middle, {facts.most:,} at most"]
    return "".join(f"<p>{line}</p>" for line in lines)


def _sizes(facts: ObjectFacts) -> str:
    """A histogram of the smaller sides, each split's as shares, with the strides of the usual heads."""
    splits = [split for split, counts in facts.sides.items() if sum(counts)]
    shares = {split: [n / sum(facts.sides[split]) for n in facts.sides[split]] for split in splits}
    if not splits:
        return ""
    bins = max(14, *map(len, shares.values()))
    highest = max(map(max, shares.values()))
    step, floor = 700 / bins, 170

    def bar(i: int, split: str, share: float) -> str:
        width, height = (step - 4) / len(splits), 130 * share / highest
        x = 10 + i * step + 2 + splits.index(split) * width
        return (
            f'<rect class="{split}" x="{x:.1f}" y="{floor - height:.1f}" width="{width:.1f}" height="{height:.1f}">'
            f"<title>{split}: {share:.1%} from {2 ** (i / 2):.3g} to {2 ** (i / 2 + 0.5):.3g} px</title></rect>"
        )

    bars = [bar(i, split, share) for split in splits for i, share in enumerate(shares[split]) if share]
    ticks = [
        f'<text x="{10 + i * step:.1f}" y="{floor + 16}" text-anchor="middle">{2 ** (i // 2)}</text>'
        for i in range(0, bins + 1, 2)
    ]
    strides = [
        f'<line class="stride" x1="{10 + i * step:.1f}" x2="{10 + i * step:.1f}" y1="24" y2="{floor}"/>'
        f'<text x="{10 + i * step:.1f}" y="16" text-anchor="middle">stride {2 ** (i // 2)}</text>'
        for i in range(4, 14, 2)
    ]
    keys = "".join(f'<i class="key {split}"></i>{split} &ensp; ' for split in splits)
    return f"""<h2>Sizes at {facts.input_size} px input</h2>
<section class="card"><p>Smaller side of each object in pixels of the network's input, in shares of its split.</p>
<p class="soft">{keys}</p><svg viewBox="0 0 720 192" role="img" aria-label="Sizes of objects">
{"".join(strides + bars + ticks)}<line x1="10" x2="710" y1="{floor}" y2="{floor}"/></svg></section>
"""


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


def _finding(finding: Finding) -> str:
    shown = [example for example in finding.examples if any(example.pictures)]
    rest = [example for example in finding.examples if example not in shown]
    more = finding.count - len(finding.examples)
    figures = f'<div class="examples">{"".join(map(_figure, shown))}</div>' if shown else ""
    items = "".join(f"<li>{_caption(example, ', ', ' - ')}</li>" for example in rest)
    return f"""<section class="card finding {finding.severity}">
<header><h3>{escape(finding.code)}</h3><span class="{finding.severity}">{finding.severity}</span></header>
<p class="message">{escape(finding.message)}</p>{figures}{f"<ul>{items}</ul>" if items else ""}
{f'<p class="soft">and {more:,} more</p>' if finding.examples and more > 0 else ""}
</section>
"""


def _figure(example: Example) -> str:
    images = "".join(
        f'<img src="data:image/jpeg;base64,{b64encode(picture).decode()}" alt="{escape(name)}">'
        for name, picture in zip(example.names, example.pictures, strict=True)
        if picture
    )
    return f'<figure><div class="pictures">{images}</div><figcaption>{_caption(example)}</figcaption></figure>'


def _caption(example: Example, between: str = "<br>", before_note: str = "<br>") -> str:
    names = between.join(escape(name).replace("/", "/<wbr>").replace("_", "_<wbr>") for name in example.names)
    return f'{names}<span class="soft">{before_note}{escape(example.note)}</span>' if example.note else names
