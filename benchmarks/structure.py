"""
How the source is built, in numbers that a table of before and after has: folders, imports, the tower of classes, large files.

    python -m benchmarks.structure [TREE]

The source is parsed, not run. An import counts wherever it is written: at the top, in a function, under ``TYPE_CHECKING``; it
leads to the module that it names, or to the folder's ``__init__`` where it takes a name from there. Names in strings
(``importlib.import_module``) do not count.
"""

import argparse
import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = "sb3_genpolicy"
#: Modules of these names, wherever they are, train several models or in several processes
TOGETHER = r"side_by_side|model_batch|model_stack|data_parallel|processes|begin_together"
# A named tuple's own methods, which are public
_OF_TUPLES = ("_replace", "_asdict", "_fields", "_make")
# SB3's class that the tower stands on
_GROUND = "OffPolicyAlgorithm"
_TOPS = ("GMPO", "GMPG")

#: Name of a module -> names of those that it leads to
Graph = dict[str, set[str]]


class Module(NamedTuple):
    """
    :param name: dotted
    :param path: of its file
    :param tree: its source
    :param n_lines: how long it is
    """

    name: str
    path: Path
    tree: ast.Module
    n_lines: int


def modules_of(root: Path) -> dict[str, Module]:
    """
    :param root: a folder with ``sb3_genpolicy``
    :return: name -> module
    """
    modules = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        text = path.read_text()
        modules[name] = Module(name, path, ast.parse(text), len(text.splitlines()))
    return modules


# Imports


def imports_of(module: Module) -> Iterator[tuple[str, str | None, str]]:
    """
    :param module: a module
    :return: for each import the module that is named, what is taken from there (None for the module itself), and what that is
        called here
    """
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None, alias.asname or alias.name
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                # Relative to the folder, which for an `__init__` is itself
                parts = module.name.split(".")
                parts = parts[: len(parts) - node.level + (module.path.name == "__init__.py")]
                source = ".".join([*parts, *([source] if source else [])])
            for alias in node.names:
                yield source, alias.name, alias.asname or alias.name


def import_graph(modules: dict[str, Module]) -> Graph:
    graph: Graph = {name: set() for name in modules}
    for name, module in modules.items():
        for source, taken, _ in imports_of(module):
            target = f"{source}.{taken}" if f"{source}.{taken}" in modules else source
            if target in modules and target != name:
                graph[name].add(target)
    return graph


def components(graph: Graph) -> list[list[str]]:
    """
    :param graph: what leads where
    :return: its strongly connected components, each after those that it leads to (Tarjan's algorithm)
    """
    numbers: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        numbers[name] = lowest[name] = len(numbers)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in numbers:
                visit(target)
                lowest[name] = min(lowest[name], lowest[target])
            elif target in stack:
                lowest[name] = min(lowest[name], numbers[target])
        if lowest[name] == numbers[name]:
            start = stack.index(name)
            found.append(sorted(stack[start:]))
            del stack[start:]

    for name in sorted(graph):
        if name not in numbers:
            visit(name)
    return found


def longest_path(graph: Graph) -> list[list[str]]:
    """
    :param graph: what leads where
    :return: the longest chain of imports from the top down, where all modules of a circle are one link
    """
    found = components(graph)
    of = {name: index for index, component in enumerate(found) for name in component}
    chains: list[list[int]] = []
    for index, component in enumerate(found):
        below = {of[target] for name in component for target in graph[name]} - {index}
        chains.append([index, *max((chains[k] for k in sorted(below)), key=len, default=[])])
    return [found[index] for index in max(chains, key=len)]


# The tower of classes


class Class(NamedTuple):
    """
    :param key: its module and its name
    :param bases: keys of its bases, or names of those that are not of this package
    :param methods: what it defines, properties too
    """

    key: tuple[str, str]
    bases: list[tuple[str, str] | str]
    methods: list[str]


def defined_in(modules: dict[str, Module], name: str, what: str) -> tuple[str, str] | str:
    """
    :param modules: all of them
    :param name: of a module
    :param what: the name of a class there
    :return: the key of the class, followed through imports; the bare name where it is not of this package
    """
    if name not in modules:
        return what
    if any(isinstance(node, ast.ClassDef) and node.name == what for node in modules[name].tree.body):
        return name, what
    for source, taken, called in imports_of(modules[name]):
        if called == what and taken is not None and source != name:
            return defined_in(modules, source, taken)
    return what


def classes_of(modules: dict[str, Module]) -> dict[tuple[str, str], Class]:
    found = {}
    for name, module in modules.items():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef):
                # Of `Generic[T]`, and of `module.Class`, what counts is the class
                bases = [ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases]
                methods = [part.name for part in node.body if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef))]
                found[name, node.name] = Class(
                    (name, node.name), [defined_in(modules, name, base) for base in bases], list(dict.fromkeys(methods))
                )
    return found


def tower(modules: dict[str, Module]) -> list[Class]:
    """
    :param modules: all of them
    :return: GMPO, GMPG, and all classes of ours that they inherit from
    """
    classes = classes_of(modules)
    waiting = [
        key for key in classes if key[1] in _TOPS and any(key[0].startswith(f"{PACKAGE}.{top.lower()}") for top in _TOPS)
    ]
    found: dict[tuple[str, str], Class] = {}
    while waiting:
        key = waiting.pop(0)
        if key not in found:
            found[key] = classes[key]
            waiting += [base for base in classes[key].bases if isinstance(base, tuple) and base in classes]
    return list(found.values())


def stands_on_ground(found: list[Class], one: Class) -> bool:
    by_key = {other.key: other for other in found}
    return any(base == _GROUND or (base in by_key and stands_on_ground(found, by_key[base])) for base in one.bases)  # type: ignore[index]


# What is private


def private_members(module: Module) -> dict[str, set[str]]:
    """
    :param module: a module
    :return: private name -> where it is read or set on something else than ``self`` or ``cls``: ``model._x``, or in a string
    """
    libraries = {called.split(".")[0] for _, taken, called in imports_of(module) if taken is None}
    found: dict[str, set[str]] = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and re.fullmatch(r"_[a-z]\w*", node.attr) and node.attr not in _OF_TUPLES:
            root = node.value
            if not (isinstance(root, ast.Name) and root.id in {"self", "cls", *libraries}):
                found.setdefault(node.attr, set()).add(ast.unparse(root))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"_[a-z]\w*", node.value):
            found.setdefault(node.value, set()).add("in a string")
    return found


# The table


def print_folders(modules: dict[str, Module], root: Path) -> None:
    counts: Counter[Path] = Counter(module.path.parent.relative_to(root) for module in modules.values())
    lines: Counter[Path] = Counter()
    for module in modules.values():
        lines[module.path.parent.relative_to(root)] += module.n_lines
    print("| folder | files of Python | lines |\n|---|---|---|")
    for folder in sorted(counts):
        print(f"| `{folder}/` | {counts[folder]} | {lines[folder]:,} |")
    print(f"| all | {len(modules)} | {sum(lines.values()):,} |")


def print_imports(graph: Graph) -> None:
    chain = longest_path(graph)
    print(f"\nLongest import path: {len(chain)} modules, where all of a circle count as one:")
    print("  " + " -> ".join(short(link[0]) if len(link) == 1 else f"({len(link)} in a circle)" for link in chain))
    circles = sorted((component for component in components(graph) if len(component) > 1), key=len, reverse=True)
    print(f"\nImport circles: {len(circles)}, with {sum(map(len, circles))} modules")
    for circle in circles:
        print(f"  {len(circle)}: {', '.join(map(short, circle))}")


def print_tower(modules: dict[str, Module]) -> None:
    found = tower(modules)
    between = [one for one in found if one.key[1] not in _TOPS]
    names = [one.key[1] + ("" if stands_on_ground(found, one) else " (mixed in)") for one in between]
    print(f"\nClasses of ours between {_GROUND} and {' or '.join(_TOPS)}: {len(between)} ({', '.join(names)})")
    counts = Counter(method for one in found for method in one.methods)
    often = [(method, count) for method, count in counts.most_common() if count > 2]
    print(f"Methods that more than two of these and of {', '.join(_TOPS)} define: {len(often)}")
    print("  " + ", ".join(f"{method} {count}" for method, count in sorted(often, key=lambda pair: (-pair[1], pair[0]))))


def print_private(modules: dict[str, Module], pattern: str) -> None:
    found: dict[str, set[str]] = {}
    looked_at = [module for name, module in modules.items() if re.search(pattern, name) and module.n_lines]
    for module in looked_at:
        for name, where in private_members(module).items():
            found.setdefault(name, set()).update(where)
    direct = sorted(name for name, where in found.items() if where != {"in a string"})
    named = sorted(set(found).difference(direct))
    print(f"\nPrivate members of others in what trains together ({', '.join(short(module.name) for module in looked_at)}):")
    print(f"  reached: {len(direct)} ({', '.join(direct)})")
    print(f"  named in strings alone: {len(named)} ({', '.join(named)})")


def short(name: str) -> str:
    return name.removeprefix(f"{PACKAGE}.")


def print_largest(modules: dict[str, Module], n_files: int) -> None:
    largest = sorted(modules.values(), key=lambda module: -module.n_lines)
    over = sum(module.n_lines > 400 for module in largest)
    print(f"\nLargest files ({over} have more than 400 lines):")
    print("  " + ", ".join(f"{short(module.name)} {module.n_lines}" for module in largest[:n_files]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path, nargs="?", default=Path(__file__).parent.parent, metavar="TREE")
    parser.add_argument("--largest", type=int, default=8, help="how many of the largest files")
    parser.add_argument("--together", default=TOGETHER, help="pattern of the modules whose use of private members is counted")
    args = parser.parse_args()
    root = args.tree.resolve()
    modules = modules_of(root)
    if not modules:
        parser.error(f"There is no {PACKAGE} in {root}.")
    print_folders(modules, root)
    print_imports(import_graph(modules))
    print_tower(modules)
    print_private(modules, args.together)
    print_largest(modules, args.largest)


if __name__ == "__main__":
    main()
