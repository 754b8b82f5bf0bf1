"""
Pieces of a page that stands alone in one file: tables, pictures, paragraphs. It asks nothing of a network.
"""

from collections.abc import Sequence
from html import escape

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
h3 { font-size: 1rem; margin-bottom: 0.3rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 0.7rem 0; font-size: 0.88rem; }
th, td { padding: 0.25rem 0.6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #eee; }
th:first-child, td:first-child, td.text { text-align: left; } td.text { white-space: normal; }
thead th { border-bottom: 2px solid #999; vertical-align: bottom; }
td small { display: block; color: #666; }
img { max-width: 100%; } code, pre { background: #f5f5f5; } pre { padding: 0.7rem; overflow-x: auto; }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """
    :param title: of the page
    :param parts: HTML of its parts
    :return: the whole page
    """
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = "\n".join([f"<h1>{escape(title)}</h1>", *parts])
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'


def heading(text: str, level: int = 2) -> str:
    """
    :param text: of the heading
    :param level: 2, 3, ...
    :return: HTML
    """
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str) -> str:
    """
    :param text: plain text
    :return: HTML
    """
    return f"<p>{escape(text)}</p>"


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
