"""
Figures as texts that a page can hold, light or dark as the page is.
"""

import base64
import io
import re

from matplotlib import rc_context
from matplotlib.figure import Figure

# What has more points than this is drawn into an image within the picture
_MANY_POINTS = 2_000
_RESOLUTION = 150
_BLACK = re.compile(r"#000000\b")
# What matplotlib gives no colour is black, and so is what it calls #000000: both are the page's ink
_INK = (
    "<style>:root { --ink: #222; fill: var(--ink); } " "@media (prefers-color-scheme: dark) { :root { --ink: #ddd; } }</style>"
)


def data_uri(figure: Figure) -> str:
    """
    :param figure: a figure, whose background is left out; what is black in it is light on a dark page
    :return: a ``data:`` address that holds it as SVG, which asks for nothing else; the same figure gives the same text
    """
    for axis in figure.axes:
        for line in axis.lines:
            if len(line.get_xdata()) > _MANY_POINTS:  # type: ignore[arg-type]
                line.set_rasterized(True)
        for collection in axis.collections:
            if len(collection.get_offsets()) > _MANY_POINTS:  # type: ignore[arg-type]
                collection.set_rasterized(True)
    drawn = io.BytesIO()
    with rc_context({"svg.hashsalt": "sb3_genpolicy"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None}, transparent=True, dpi=_RESOLUTION)
    text = _BLACK.sub("var(--ink)", drawn.getvalue().decode())
    at = text.index(">", text.index("<svg")) + 1
    return "data:image/svg+xml;base64," + base64.b64encode((text[:at] + _INK + text[at:]).encode()).decode()
