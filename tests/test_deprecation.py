"""
What is to go warns first, at the line of whoever writes it, and goes when it was said to.
"""

import warnings

import pytest

import sb3_genpolicy
from sb3_genpolicy.common import deprecation
from sb3_genpolicy.common.deprecation import Deprecation, deprecated, renamed_argument


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """What the tests make is not the package's."""
    monkeypatch.setattr(deprecation, "KNOWN", [])
    return deprecation.KNOWN


def test_function_works_and_warns_where_it_is_called(known):
    @deprecated("new_name(...)", since="0.3")
    def old_name(value, *, factor=2):
        """Doubles."""
        return value * factor

    with pytest.warns(
        DeprecationWarning, match=r"old_name\(...\) is to go: write new_name\(...\).*since release 0.3, and 0.5"
    ) as caught:
        assert old_name(3, factor=5) == 15
    assert caught[0].filename == __file__ and old_name.__doc__ == "Doubles."
    assert [each.instead for each in known] == ["new_name(...)"]


def test_renamed_argument_is_taken_by_both_names():
    class Model:
        @renamed_argument("lr", "learning_rate", since="0.3")
        def __init__(self, learning_rate=1.0):
            self.learning_rate = learning_rate

    with pytest.warns(DeprecationWarning, match=r"__init__\(lr=...\) is to go: write learning_rate=") as caught:
        assert Model(lr=0.5).learning_rate == 0.5
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Model(learning_rate=0.5).learning_rate == Model(0.5).learning_rate == 0.5 and Model().learning_rate == 1.0
    with pytest.raises(TypeError, match="lr= is the old name of learning_rate=: give one"):
        Model(lr=0.5, learning_rate=0.5)


def test_a_name_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="'rate' has to be, 'lr' not"):
        renamed_argument("lr", "rate", since="0.3")(lambda learning_rate: learning_rate)
    with pytest.raises(ValueError, match="'rate' has to be, 'lr' not"):
        renamed_argument("lr", "rate", since="0.3")(lambda lr, rate: rate)


@pytest.mark.parametrize(
    "version, overdue", [("0.3.0", False), ("0.4.7", False), ("0.5.0", True), ("0.10.0", True), ("1.0.0", True)]
)
def test_two_releases_warn(version, overdue):
    assert Deprecation("x", "y", since="0.3").is_overdue(version) is overdue


def test_nothing_of_the_package_is_overdue(monkeypatch):
    monkeypatch.undo()
    sb3_genpolicy.GMPO  # noqa: B018
    assert any("release 0.1" in each.what for each in deprecation.KNOWN)
    overdue = [each for each in deprecation.KNOWN if each.is_overdue(sb3_genpolicy.__version__)]
    assert not overdue, "these go with this release"
