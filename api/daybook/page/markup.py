"""Markup is what a page has hundreds of, written without a template: sentences, and the days of the histogram.

Everything that comes from the log or the address is escaped here.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from markupsafe import Markup

from ..sentences import Line, Piece
from .frame import Frame, templates
from .histogram import HEIGHT, STEP, Day, Histogram


def sentence(line: Line, frame: Frame) -> Markup:
    """What an entry says, its names linked to what else there is of them, and its marks."""
    said = [_piece(piece, line, frame) for piece in line.pieces]
    marks = [f' <span class="mark" title="{escape(why)}"><bdi>{escape(mark)}</bdi></span>' for mark, why in line.marks]
    return Markup("".join([*said, *marks]))


def _piece(piece: Piece, line: Line, frame: Frame) -> str:
    text = escape(piece.text)
    if not piece.kind:
        return text
    if piece.id is not None and piece.kind == "actor":
        return f'<a class="name" href="{escape(frame.filtered(performer_id=piece.id))}"><bdi>{text}</bdi></a>'
    if piece.id is not None and piece.kind == "resource" and line.resource_type != "audit_log":
        address = escape(frame.resource(line.resource_type, piece.id))
        return f'<a class="name" href="{address}"><bdi>{text}</bdi></a>'
    return f"<em><bdi>{text}</bdi></em>" if piece.kind == "value" else f'<bdi class="name">{text}</bdi>'


def bars(days: Sequence[Day]) -> Markup:
    """The links over the bars of a histogram."""
    return Markup(
        "\n".join(
            [
                f'<a href="{escape(day.address)}" tabindex="-1"><title>{day.label}</title>'
                f'<rect x="{day.x}" y="0" width="{STEP}" height="{HEIGHT}"></rect></a>'
                for day in days
                if day.total
            ]
        )
    )


def rows(histogram: Histogram) -> Markup:
    """The days of a histogram as rows of its table, newest first."""
    written = []
    for day in reversed(histogram.days):
        if day.total:
            cells = "".join([f"<td>{number:,}</td>" for number in (day.total, *day.numbers)])
            written.append(f'<tr><th scope="row"><a href="{escape(day.address)}">{day.day}</a></th>{cells}</tr>')
    return Markup("\n".join(written))


templates.globals |= {"sentence": sentence, "bars": bars, "rows": rows}
