"""A value over time as a drawing, with its figures in words for those who don't see it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from arcbackupd.ctl.report.markup import Markup, element, together

WIDTH, HEIGHT = 640, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 12, 14, 34
Point = tuple[datetime, float]


def chart(title: str, points: Sequence[Point], shown: Callable[[float], str]) -> Markup:
    """A line through the points, oldest first, over a scale that begins at nothing."""
    if len(points) < 2:
        return element("p", f"{title}: there are too few backups yet to draw this.")
    start, end = points[0][0], points[-1][0]
    steps = scale(max(value for _, value in points))
    top = steps[-1] or 1

    def x(moment: datetime) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * ((moment - start) / max(end - start, timedelta(seconds=1)))

    def y(value: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * value / top

    drawn = " ".join(f"{x(moment):.1f},{y(value):.1f}" for moment, value in points)
    described = (
        f"{title}: from {shown(points[0][1])} on {start:%d %B %Y} to {shown(points[-1][1])} on {end:%d %B %Y}."
    )
    parts = [
        element("title", described),
        *(_grid(y(step), shown(step)) for step in steps),
        *(_date(x(moment), _label(moment, start, end)) for moment in _dates(start, end)),
        element("polyline", points=drawn, class_="line"),
        *(_dot(x(moment), y(value), f"{moment:%d %b %Y %H:%M} UTC: {shown(value)}") for moment, value in points),
    ]
    drawing = element("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=described)
    return element("figure", element("figcaption", title), drawing)


def scale(largest: float) -> list[float]:
    """Round steps from 0 to at least the largest value: three to six of them."""
    if largest <= 0:
        return [0, 1]
    size = 10 ** math.floor(math.log10(largest))
    step = next(size * part for part in (0.2, 0.25, 0.5, 1, 2) if largest / (size * part) <= 5)
    return [number * step for number in range(math.ceil(largest / step) + 1)]


def _dates(start: datetime, end: datetime) -> list[datetime]:
    return [start, start + (end - start) / 2, end]


def _grid(height: float, label: str) -> Markup:
    line = element("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=f"{height:.1f}", y2=f"{height:.1f}", class_="grid")
    return together(line, element("text", label, x=_LEFT - 8, y=f"{height + 4:.1f}", text_anchor="end"))


def day(moment: datetime, last: datetime) -> str:
    """A day, with its year where that isn't the one of the last day shown."""
    return f"{moment:%d %b}" if moment.year == last.year else f"{moment:%d %b %Y}"


def _label(moment: datetime, start: datetime, end: datetime) -> str:
    return f"{moment:%H:%M}" if start.date() == end.date() else day(moment, end)


def _date(place: float, words: str) -> Markup:
    anchor = "start" if place < _LEFT + 1 else "end" if place > WIDTH - _RIGHT - 1 else "middle"
    return element("text", words, x=f"{place:.1f}", y=HEIGHT - 10, text_anchor=anchor)


def _dot(left: float, height: float, words: str) -> Markup:
    return element(
        "g", element("title", words), element("circle", cx=f"{left:.1f}", cy=f"{height:.1f}", r=6), class_="dot"
    )
