"""
Look at every link within the built pages, and within Markdown files as a repository's page shows them: files and anchors that
are not there are printed, and the exit status is 1.

    python docs/check_links.py docs/_build/html README.md

Addresses on the network are left to `make linkcheck`. Pages of source code are not looked through: of a module whose members
are documented under several names, Sphinx knows one alone when it links back.
"""

import sys
from collections.abc import Iterable, Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from mdit_py_plugins.anchors import anchors_plugin


class _Page(HTMLParser):
    """The anchors of a page, and where its links and pictures lead."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.anchors.update(values[name] for name in ("id", "name") if name in values)
        self.links.extend(values[name] for name in ("href", "src") if name in values)


@cache
def _page(path: Path) -> _Page:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        text = MarkdownIt("commonmark").enable("table").use(anchors_plugin, max_level=6).render(text)
    return _Page(text)


def broken_links(paths: Iterable[Path]) -> Iterator[str]:
    """
    :param paths: HTML and Markdown files
    :return: a line for each link that leads nowhere
    """
    for path in paths:
        for link in dict.fromkeys(_page(path).links):
            address = urlsplit(link)
            if address.scheme or address.netloc:
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            if not target.exists():
                yield f"{path}: {link} is not there"
            elif address.fragment and target.suffix in (".html", ".md"):
                if unquote(address.fragment) not in _page(target).anchors:
                    yield f"{path}: {link}: {target.name} has no such anchor"


def main() -> int:
    given = [Path(name) for name in sys.argv[1:]]
    paths = [page for path in given for page in (sorted(path.rglob("*.html")) if path.is_dir() else [path])]
    paths = [path for path in paths if "_modules" not in path.parts]
    broken = list(broken_links(paths))
    print("\n".join(broken) or f"{len(paths)} pages: every link within them leads somewhere.")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
