"""
What the package offers at its top: each name is described as it is called, with shapes, units or ranges, errors and sources.

Rules that a docstring can break: its ``:param x:`` name the signature's parameters, no more and no fewer; a result is
described where there is one; what is raised is named where something is; arrays have shapes; a method names its source.
"""

import ast
import importlib
import inspect
import re
import textwrap
import typing

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

import sb3_genpolicy
from sb3_genpolicy import public

NAMES = sorted(set(sb3_genpolicy.__all__) - {"__version__"})
ALGORITHMS = [
    name for name in NAMES if inspect.isclass(getattr(public, name)) and issubclass(getattr(public, name), BaseAlgorithm)
]
# What SB3 has and describes: its pages are the place to read of it
OF_SB3 = {"_init_setup_model", "verbose", "callback_on_new_best", "callback_after_eval", "warn", "render"}
SHAPE = re.compile(r"\([^)]*,[^)]*\)|\(\.\.\.\)|shape")
# A unit, a range, a shape or a choice: something to know a number by
MEASURE = re.compile(
    r"\(|>|<|\[|\d|``|share|seed|number|steps|rows|episodes|nats|reward|rate|deviation|dimension|probabilit|unit|bound|return"
)
SOURCE = re.compile(r"arXiv|arxiv\.org|paper|doi\.org|et al\.")


def own_methods(cls):
    """Public methods that the class itself defines, and properties' functions."""
    for name, member in vars(cls).items():
        if not name.startswith("_"):
            function = inspect.unwrap(getattr(member, "fget", None) or getattr(member, "__func__", member))
            if inspect.isfunction(function):
                yield name, function, isinstance(member, property)


def described(owner):
    """What there is to describe of a name: label, function or class, its docstring, its signature's parameters."""
    value = getattr(public, owner)
    yield owner, value, inspect.getdoc(value) or "", parameters(value)
    if inspect.isclass(value) and not issubclass(value, tuple):
        for name, function, is_property in own_methods(value):
            yield f"{owner}.{name}", function, inspect.getdoc(getattr(value, name)) or "", (
                [] if is_property else parameters(function)
            )


def parameters(value):
    if inspect.isclass(value) and issubclass(value, BaseException):
        return []
    return [name for name in inspect.signature(value).parameters if name not in ("self", "cls", "args", "kwargs", *OF_SB3)]


def told(doc):
    """``:param x:`` of a docstring, and what each says."""
    parts = re.split(r"^:(param \w+|return|raises [\w.]+):", doc, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def referred_to(doc, value):
    """What docstrings say that this one goes on from: of base classes, and of the function that has the other options."""
    found = {}
    for base in inspect.getmro(value)[1:] if inspect.isclass(value) else ():
        found.update(told(inspect.cleandoc(base.__doc__ or "")))
    others = re.search(r"other (?:parameters|options) are those of :\w+:`~?([\w.]+)`", " ".join(doc.split()))
    if others:
        module, _, name = others[1].rpartition(".")
        found.update(told(inspect.getdoc(getattr(importlib.import_module(module), name))))
    return found


def parameters_of_doc(doc):
    return [
        key.removeprefix("param ")
        for key in told(doc)
        if key.startswith("param ") and key not in ("param kwargs", "param args")
    ]


def faults_of_parameters(doc, names, elsewhere=()):
    described = [name for name in parameters_of_doc(doc) if name not in OF_SB3]
    return [f"{name} is not described" for name in names if name not in described and f"param {name}" not in elsewhere] + [
        f"{name} is described, but there is none" for name in described if name not in names
    ]


CASES = [pytest.param(*case, id=case[0]) for name in NAMES for case in described(name)]


def test_rules_find_what_breaks_them():
    doc = "Text.\n\n:param one: (n, 2)\n:param three: x\n:return: y\n:raises ValueError: if"
    assert faults_of_parameters(doc, ["one", "two"]) == ["two is not described", "three is described, but there is none"]
    assert told(doc)["raises ValueError"] == " if"
    assert raised(lambda: None) == set()


@pytest.mark.parametrize("label, value, doc, names", CASES)
def test_docstring_is_of_this_signature(label, value, doc, names):
    if "cf " in doc and len(doc) < 200:
        # SB3's own, described there
        return
    assert len(doc) > 20, f"{label} has no docstring"
    assert faults_of_parameters(doc, names, referred_to(doc, value)) == []


def raised(function):
    """Names of the errors that a function's own lines raise."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError, TypeError):
        return set()
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    return {call.func.id for call in calls if isinstance(call.func, ast.Name)} - {"NotImplementedError", "StopIteration"}


@pytest.mark.parametrize("label, value, doc, names", CASES)
def test_results_and_errors_are_described(label, value, doc, names):
    function = vars(value).get("__post_init__", value.__init__) if inspect.isclass(value) else value
    if "cf " in doc and len(doc) < 200:
        return
    if not inspect.isclass(value):
        result = inspect.signature(value).return_annotation
        is_property = inspect.isdatadescriptor(
            inspect.getattr_static(getattr(public, label.split(".")[0]), label.split(".")[-1], 0)
        )
        if result not in (None, "None", inspect.Signature.empty) and not is_property:
            assert ":return:" in doc, f"{label} gives {result}: say what that is"
    for error in raised(inspect.unwrap(function)):
        assert f":raises {error}:" in doc, f"{label} raises {error}, and does not say when"


@pytest.mark.parametrize("label, value, doc, names", CASES)
def test_arrays_have_shapes_and_numbers_have_measures(label, value, doc, names):
    try:
        hints = typing.get_type_hints(
            value.__init__ if inspect.isclass(value) and hasattr(value.__init__, "__code__") else value
        )
    except (NameError, TypeError):
        hints = {}
    own = told(doc)
    texts = {**referred_to(doc, value), **own}
    faults = []
    for name in names:
        kinds, text = [*typing.get_args(hints.get(name)), hints.get(name)], texts.get(f"param {name}", "")
        if (np.ndarray in kinds or th.Tensor in kinds) and not SHAPE.search(text):
            faults.append(f"{name} is an array without a shape")
        if (int in kinds or float in kinds) and not MEASURE.search(text):
            faults.append(f"{name} is a number without a unit or a range")
    assert not faults, label
    if hints.get("return") in (np.ndarray, th.Tensor) and not inspect.isclass(value) and own:
        assert SHAPE.search(own.get("return", "")), f"{label} gives an array without a shape"


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "OfflineAlgorithm"])
def test_methods_name_their_source(name):
    value = getattr(public, name)
    module = inspect.getmodule(value)
    assert SOURCE.search((value.__doc__ or "") + (module.__doc__ or "")), f"{name} does not say whose it is"
