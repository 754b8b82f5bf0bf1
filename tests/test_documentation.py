"""
What pages promise: links that lead somewhere, a command beside every picture, formulas that need no network.
"""

import importlib.util
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FRONT = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md", "sb3_genpolicy/data/README.md"]
PAGES = sorted(page for folder in (DOCS, DOCS / "guide", DOCS / "modules") for page in folder.glob("*.md"))


def tool(name):
    """A module of the documentation's own; skips where what it is built with is not installed."""
    pytest.importorskip("myst_parser")
    spec = importlib.util.spec_from_file_location(Path(name).stem, DOCS / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Links


def test_links_of_the_first_pages_lead_somewhere():
    assert list(tool("check_links.py").broken_links(ROOT / name for name in FRONT)) == []


def test_changelog_has_no_links_into_the_documentation():
    """It is a page of the documentation too, where they would lead elsewhere."""
    assert "](docs/" not in (ROOT / "CHANGELOG.md").read_text()


def test_links_that_lead_nowhere_are_told(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="top">A</h1><a href="b.md#second-part">b</a><a href="#bottom">c</a><img src="d.png">'
    )
    (tmp_path / "b.md").write_text(
        "# B\n\n## Second part\n\n[up](a.html#top), [web](https://example.org/#x), [gone](e%20f.md)\n"
    )
    told = list(tool("check_links.py").broken_links([tmp_path / "a.html", tmp_path / "b.md"]))
    assert [line.removeprefix(str(tmp_path)) for line in told] == [
        "/a.html: #bottom: a.html has no such anchor",
        "/a.html: d.png is not there",
        "/b.md: e%20f.md is not there",
    ]


# Pictures


def pictures_of(page):
    """Every picture with the paragraphs on either side of it."""
    blocks = re.split(r"\n\n+", page.read_text())
    for i, block in enumerate(blocks):
        for name in re.findall(r"_static/[\w.-]+\.(?:png|svg)", block):
            if re.search(rf"(?:!\[[^\]]*\]\(|\{{image\}} )\S*{re.escape(name)}", block):
                yield name, "\n".join(blocks[i - 1 : i + 2])


def test_every_picture_has_its_command_beside_it():
    shown = [(page, name, around) for page in [ROOT / "README.md", *PAGES] for name, around in pictures_of(page)]
    without = [
        f"{page.name}: {name}"
        for page, name, around in shown
        if not re.search(r"`(?:python |make )[^`]+`|^make demo", around, re.M)
    ]
    assert without == []
    # None is left over, and none has slipped through the search above
    assert {Path(name).name for _, name, _ in shown} == {path.name for path in (DOCS / "_static").glob("*.[ps][nv]g")}


# Formulas


def texts(element):
    return "".join(element.itertext())


def test_formulas_are_mathml():
    converted = tool("extensions/mathml.py").mathml(r"\alpha(t)\, a \leq \sum_{i} q_i^2", is_block=True)
    math = ElementTree.fromstring(converted)
    space = "{http://www.w3.org/1998/Math/MathML}"
    assert math.tag == f"{space}math" and math.get("display") == "block"
    assert re.sub(r"\s", "", texts(math)) == "\N{GREEK SMALL LETTER ALPHA}(t)a≤∑iqi2"
    assert [re.sub(r"\s", "", texts(both)) for both in math.iter(f"{space}msubsup")] == ["qi2"]


def test_formula_that_is_not_understood_stays_readable():
    """The warning with it is an error of `make doc`."""
    pytest.importorskip("sphinx")
    assert tool("extensions/mathml.py").mathml(r"a < \unheard{b}", is_block=False) == r"<code>a &lt; \unheard{b}</code>"
