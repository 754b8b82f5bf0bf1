"""
Pieces of a page that stands alone in one file: tables, pictures, paragraphs. It asks nothing of a network.
"""

from collections.abc import Mapping, Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: #222; --soft: #666; --back: #fff; --panel: #f5f5f5; --line: #ddd; --mark: #2a5db0; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ddd; --soft: #999; --back: #16181c; --panel: #23262c; --line: #3a3e46; --mark: #8ab4f8; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin-bottom: 0.3rem; } a { color: var(--mark); }
nav a { margin-right: 1rem; white-space: nowrap; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 0.7rem 0; font-size: 0.88rem; }
th, td { padding: 0.25rem 0.6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child, td.text { text-align: left; } td.text { white-space: normal; }
td { vertical-align: top; } thead th { border-bottom: 2px solid var(--soft); vertical-align: bottom; }
td small { display: block; color: var(--soft); }
img { max-width: 100%; } code, pre { background: var(--panel); }
pre { padding: 0.7rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.grid { display: grid; gap: 0.6rem; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); }
.grid img { width: 100%; } figure { margin: 0; } figcaption { font-size: 0.88rem; color: var(--soft); }
.said { border-left: 3px solid var(--mark); background: var(--panel); padding: 0.5rem 0.8rem; }
summary { cursor: pointer; color: var(--mark); }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """
    :param title: of the page
    :param parts: HTML of its parts
    :return: the whole page
    """
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'<meta charset="utf-8">{viewport}<title>{escape(title)}</title>'
    body = "\n".join([f"<h1>{escape(title)}</h1>", *parts])
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'


def heading(text: str, level: int = 2, name: str = "") -> str:
    """
    :param text: of the heading
    :param level: 2, 3, ...
    :param name: its ``id``, which :func:`contents` leads to; none by default
    :return: HTML
    """
    place = f' id="{escape(name)}"' if name else ""
    return f"<h{level}{place}>{escape(text)}</h{level}>"


def contents(names: Mapping[str, str]) -> str:
    """
    :param names: ``id`` of a heading -> what it is called
    :return: HTML, links within the page
    """
    links = "".join(f'<a href="#{escape(name)}">{escape(text)}</a> ' for name, text in names.items())
    return f"<nav>{links}</nav>"


def paragraph(text: str) -> str:
    """
    :param text: plain text
    :return: HTML
    """
    return f"<p>{escape(text)}</p>"


def said(text: str) -> str:
    """
    :param text: plain text that is not to be overlooked
    :return: HTML
    """
    return f'<p class="said">{escape(text)}</p>'


def folded(summary: str, parts: Sequence[str]) -> str:
    """
    :param summary: what is to be seen while the rest is folded away
    :param parts: HTML of the rest
    :return: HTML
    """
    return f"<details><summary>{escape(summary)}</summary>{''.join(parts)}</details>"


def code(text: str) -> str:
    """
    :param text: a command or the like
    :return: HTML
    """
    return f"<pre>{escape(text)}</pre>"


def picture(uri: str, text: str) -> str:
    """
    :param uri: a ``data:`` address
    :param text: what is to be seen
    :return: HTML
    """
    return f'<img src="{escape(uri)}" alt="{escape(text)}">'


def gallery(pictures: Sequence[tuple[str, str]], captions: bool = True) -> str:
    """
    :param pictures: ``data:`` address and caption of each
    :param captions: whether to write these below; else pictures have titles of their own
    :return: HTML: side by side as far as there is room, one below the other on a phone
    """
    figures = []
    for uri, text in pictures:
        caption = f"<figcaption>{escape(text)}</figcaption>" if captions else ""
        figures.append(f'<figure><img src="{escape(uri)}" alt="{escape(text)}">{caption}</figure>')
    return f'<div class="grid">{"".join(figures)}</div>'


def facts(values: Mapping[str, str], name: str) -> str:
    """
    :param values: what is told -> what is said of it
    :param name: the table's ``id``
    :return: HTML of a table without heads
    """
    rows = "\n".join(f"<tr>{cell(key)}{cell(value, words=True)}</tr>" for key, value in values.items())
    return f'<div class="wide"><table id="{escape(name)}"><tbody>{rows}</tbody></table></div>'


def cell(text: str, below: str = "", shade: float | None = None, words: bool = False) -> str:
    """
    :param text: of a table's cell
    :param below: a second, smaller line
    :param shade: from 0 (red) over 0.5 (white) to 1 (green), None for white
    :param words: whether it is text rather than a number
    :return: HTML
    """
    small = f"<small>{escape(below)}</small>" if below else ""
    kind = ' class="text"' if words else ""
    style = "" if shade is None else f' style="background: {_color(shade)}"'
    return f"<td{kind}{style}>{escape(text)}{small}</td>"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], name: str) -> str:
    """
    :param heads: of the columns
    :param rows: cells of each row, of :func:`cell`
    :param name: the table's ``id``
    :return: HTML
    """
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="wide"><table id="{escape(name)}"><thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _color(shade: float) -> str:
    strength = 0.7 * abs(2.0 * shade - 1.0)
    red, green, blue = (90, 160, 90) if shade > 0.5 else (210, 110, 100)
    return f"rgba({red}, {green}, {blue}, {strength:.2f})"
