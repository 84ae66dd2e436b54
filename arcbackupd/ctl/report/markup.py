"""HTML by functions. Whatever isn't `Markup` already is escaped, so that no text of a dump's becomes a tag."""

from __future__ import annotations

from html import escape

from arcbackupd.ctl.words import clean

_VOID = frozenset({"meta", "line", "rect", "path", "circle"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """An element. Attributes: ``class_`` for ``class``, ``_`` for ``-``; None leaves one out."""
    given = "".join(
        f' {_name(name)}="{escape(clean(value))}"' for name, value in attributes.items() if value is not None
    )
    if tag in _VOID:
        return Markup(f"<{tag}{given}/>")
    return Markup(f"<{tag}{given}>{together(*children)}</{tag}>")


def together(*children: object) -> Markup:
    """One after another, each escaped unless it is markup; None is nothing."""
    return Markup("".join(str(child) if isinstance(child, Markup) else _text(child) for child in children))


def _text(child: object) -> str:
    return "" if child is None else escape(clean(child))


def _name(attribute: str) -> str:
    return attribute.rstrip("_").replace("_", "-") if attribute != "viewBox" else attribute


def table(caption: str, titles: list[str], rows: list[list[object]], class_: str | None = None) -> Markup:
    """A table that a narrow screen scrolls by itself; the first cell of a row is its head."""
    head = element("tr", *(element("th", title, scope="col") for title in titles))
    lines = (
        element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in cells))
        for first, *cells in rows
    )
    whole = element(
        "table",
        element("caption", caption, class_="words"),
        element("thead", head),
        element("tbody", *lines),
        class_=class_,
    )
    return element("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption)
