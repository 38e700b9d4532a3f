"""A chart of what each system adds to a write, as SVG: bars, each with its figure in words beside it.

Drawn by hand so that it needs no library; its colours are read on white and on black; its description has the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .report import Costs, medians, number
from .systems import System
from .workloads import Workload

CHARTED = ("update-1", "update-10000", "wide-10000")
WIDTH, LINE, LABEL, FIGURE = 760, 20, 210, 70
OURS, FLOOR, OTHERS = "#2f7fd1", "#8a8f98", "#c2722b"
LABELLED = 'aria-labelledby="title description"'
STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #6e7781 }
.head { font-weight: 600 }
@media (prefers-color-scheme: dark) { text { fill: #b7bfc8 } }"""


def chart(version: int, costs: Costs, systems: Sequence[System], workloads: Sequence[Workload]) -> str:
    """Return the chart of the CPU added over untracked, a panel for each workload, as an SVG document.

    Each panel has its own scale: its longest bar is its dearest system.
    """
    middle = medians(costs)
    title = f"What an audit log adds to a write, PostgreSQL {version}"
    parts, sentences, y = [], [], 2 * LINE
    for workload in workloads:
        plain = middle.get((workload.key, "untracked"))
        if workload.key not in CHARTED or plain is None:
            continue
        added = [
            (system, max(cost.cpu - plain.cpu, 0.0))
            for system in systems
            if system.key != "untracked" and (cost := middle.get((workload.key, system.key)))
        ]
        if not added:
            continue
        longest = max(value for _, value in added) or 1
        parts.append(text(0, y, f"{workload.title}: CPU added a row, µs (untracked: {number(plain.cpu)})", "head"))
        for system, value in added:
            y += LINE
            length = max(value / longest * (WIDTH - LABEL - FIGURE), 1)
            colour = {"ours": OURS, "floor": FLOOR}.get(system.key, OTHERS)
            parts.append(text(0, y, system.title, "head" if system.key == "ours" else ""))
            parts.append(f'<rect x="{LABEL}" y="{y - 11}" width="{length:.1f}" height="13" rx="2" fill="{colour}"/>')
            parts.append(text(LABEL + length + 6, y, number(value)))
        figures = ", ".join(f"{system.title} {number(value)}" for system, value in added)
        sentences.append(f"{workload.title}: {figures}.")
        y += 2 * LINE
    described = f"Microseconds of backend CPU added a row over an untracked table. {' '.join(sentences)}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" role="img" {LABELLED}>',
            f'<title id="title">{escape(title)}</title>',
            f'<desc id="description">{escape(described)}</desc>',
            f"<style>{STYLE}</style>",
            text(0, LINE - 4, title, "head"),
            *parts,
            "</svg>\n",
        ]
    )


def text(x: float, y: float, words: str, kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y}"{style}>{escape(words)}</text>'
