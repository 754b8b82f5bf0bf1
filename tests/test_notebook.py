"""
The notebook for newcomers runs from top to bottom, and is a notebook that others can show.
"""

import base64
import json
import re
from pathlib import Path

import matplotlib
import pytest

PATH = Path(__file__).parent.parent / "examples" / "first_steps.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return json.loads(PATH.read_text(encoding="utf-8"))


def source_of(cell):
    return "".join(cell["source"])


def code_of(cell):
    """What Python takes: without the lines that are Jupyter's, and the semicolon that hides an answer."""
    lines = source_of(cell).splitlines()
    return "\n".join(line for line in lines if not line.startswith("%"))


def test_notebook_has_what_the_format_demands(notebook):
    """The required keys of nbformat 4.5."""
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"].keys() >= {"name", "display_name"}
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(set(names)) == len(names) and all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in names)
    for cell in notebook["cells"]:
        keys = {"id", "cell_type", "metadata", "source"}
        if cell["cell_type"] == "code":
            keys |= {"execution_count", "outputs"}
            for output in cell["outputs"]:
                assert output["output_type"] in ("stream", "display_data", "execute_result")
        else:
            assert cell["cell_type"] == "markdown"
        assert set(cell) == keys
        assert isinstance(cell["source"], (str, list)) and source_of(cell).strip()


def test_stored_notebook_is_small_shows_pictures_and_says_nothing_of_a_machine(notebook):
    text = PATH.read_text(encoding="utf-8")
    assert len(text) < 300_000 and not re.search(r"(?<![\w.])/(work|tmp|home|root|Users)/", text) and "Warning" not in text
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 3
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)
    counts = [cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))


def test_links_lead_to_files(notebook):
    root = PATH.parent.parent
    named = {
        name
        for cell in notebook["cells"]
        if cell["cell_type"] == "markdown"
        for name in re.findall(r"`((?:docs|examples)/[\w/.]+)`", source_of(cell))
    }
    assert len(named) >= 3 and all((root / name).is_file() for name in named), named


def test_cells_run_in_order(notebook, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    backend = matplotlib.get_backend()
    matplotlib.use("Agg")
    cells = [code_of(cell) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    first, replaced = re.subn(
        r"^STEPS, EPISODES, SAMPLES = .*$", "STEPS, EPISODES, SAMPLES = 6, 2, 50", cells[0], flags=re.MULTILINE
    )
    assert replaced == 1
    names = {"__name__": "__main__"}
    try:
        for cell in [first, *cells[1:]]:
            exec(compile(cell, str(PATH), "exec"), names)
        assert names["model"].num_timesteps == 6
        assert sorted(names["STATES"]) == ["hanging, at rest", "nearly upright", "on its side, falling"]
        # Two histograms of returns, then three states with a curve each
        assert [len(names["plt"].figure(number).axes) for number in names["plt"].get_fignums()] == [1, 3]
        density = names["figure"].axes[0].lines[0].get_xydata()
        assert 0.2 < (density[1:, 1] * (density[1:, 0] - density[:-1, 0])).sum() < 1.5
    finally:
        if "plt" in names:
            names["plt"].close("all")
        matplotlib.use(backend)
    said = capsys.readouterr().out
    assert "behaviour  return   -643" in said and "acts alike: True; trained for 6 steps on pendulum-mixed" in said
    assert (tmp_path / "gmpo_pendulum.zip").is_file()
