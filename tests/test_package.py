"""The package as a whole: what importing it costs, which folder may import which, what its files must not say."""

import ast
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import lrpfast

PACKAGE = Path(lrpfast.__file__).parent
ROOT = Path(__file__).parents[1]
MODULES = sorted(p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py"))


# What ``import lrpfast`` costs. Time differs from machine to machine; what is imported does not.

HEAVY = {
    *[
        "cupy",
        "dask",
        "h5py",
        "IPython",
        "keras",
        "matplotlib",
        "onnx",
        "pandas",
        "scipy",
        "sklearn",
        "tensorflow",
        "torch",
        "tqdm",
        "xarray",
    ],
    *[
        "asyncio",
        "concurrent",
        "ctypes",
        "email",
        "http",
        "importlib.metadata",
        "logging",
        "multiprocessing",
        "socket",
        "sqlite3",
        "xml",
    ],
}


def imported_by(statement):
    """Modules that a statement imports beyond NumPy's, in a fresh interpreter."""
    code = f"import sys, numpy; before = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - before))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_import_brings_nothing_heavy():
    imported = imported_by("import lrpfast")
    assert not [m for m in imported if m in HEAVY or m.split(".")[0] in HEAVY]
    others = [m for m in imported if m.split(".")[0] != "lrpfast"]
    assert len(others) <= 45, f"lrpfast imports {len(others)} modules beside its own and NumPy's: {others}"


def test_import_brings_neither_command_line_nor_files():
    imported = imported_by("import lrpfast")
    assert not [m for m in imported if m.startswith(("lrpfast.cli", "lrpfast.demo", "lrpfast.batch", "argparse"))]


def test_public_modules_list_public_names():
    for module in (lrpfast, lrpfast.layers, lrpfast.rules, lrpfast.composites, lrpfast.plot, lrpfast.batch):
        assert dir(module) == sorted(module.__all__)
        assert all(hasattr(module, name) for name in dir(module))


def test_batch_is_there_when_it_is_asked_for():
    assert "lrpfast.batch.stream" in imported_by("import lrpfast; lrpfast.batch.open_source")


# Imports go one way. Each folder, and each module beside them, with what it may import.

MAY_IMPORT = {
    "errors": set(),
    "budget": {"errors"},
    "output": {"errors"},
    "suggest": set(),
    "lazy": set(),
    "table": set(),
    "version": set(),
    "model": {"errors", "output", "table"},
    "readers": {"budget", "errors", "lazy", "model"},
    "rules": {"errors", "model", "suggest"},
    "kernels": {"errors"},
    "engine": {"budget", "errors", "lazy", "table", "version", "model", "rules", "kernels"},
    "batch": {"budget", "errors", "lazy", "output", "model", "readers", "rules", "engine", "version"},
    "plot": {"errors", "output", "engine", "kernels"},
    "layers": {"model"},
    "composites": {"rules"},
    "demo": {"output", "model", "readers", "engine", "kernels"},
    "cli": {
        *("", "errors", "suggest", "table", "model", "readers", "rules", "engine", "batch", "kernels"),
        *("demo", "plot"),
    },
    "__main__": {"cli"},
    "": {"version", "errors", "model", "readers", "rules", "engine", "layers", "composites", "plot"},
}
#: the imports against the direction: what a method of the public class runs when it is called
AGAINST = {
    ("model/graph.py", "engine", "predict"),
    ("engine/analyzer.py", "batch", "stream"),
    ("engine/analyzer.py", "batch", None),  # the type of what it returns
    ("engine/analyzer.py", "batch", "map"),
}


def folder_of(module):
    """``engine`` of ``engine/plan.py``, "" of the package's own ``__init__.py``."""
    name = module.parts[0].removesuffix(".py")
    return "" if name == "__init__" else name


def own_imports(module):
    """(folder, function in which it stands or None) of every import from the package itself."""
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
    inside = {}
    for function in ast.walk(tree):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            inside.update({node: function.name for node in ast.walk(function)})
    package = ["lrpfast", *module.parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module or "").split(".")] if node.module else base
            # ``from . import x`` names a module where there is one, else something of the package's __init__
            targets = [[*base, alias.name] if is_module([*base, alias.name]) else base for alias in node.names]
        else:
            continue
        for target in targets:
            if target[:1] == ["lrpfast"]:
                yield (target[1] if len(target) > 1 else ""), inside.get(node)


def is_module(parts):
    path = PACKAGE.joinpath(*parts[1:])
    return path.is_dir() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_go_one_way(module):
    folder = folder_of(module)
    assert folder in MAY_IMPORT, f"say in MAY_IMPORT what {folder} may import"
    for target, function in own_imports(module):
        if target == folder or (module.as_posix(), target, function) in AGAINST:
            continue
        assert target in MAY_IMPORT[folder], f"{module} imports {target or 'the package'} in {function or 'its head'}"


def test_the_exception_is_still_needed():
    for module, target, function in AGAINST:
        assert (target, function) in set(own_imports(Path(module)))


def test_the_order_has_no_circle():
    seen = set()
    while seen != set(MAY_IMPORT):
        free = {f for f in MAY_IMPORT if MAY_IMPORT[f] <= seen} - seen
        assert free, f"a circle among {set(MAY_IMPORT) - seen}"
        seen |= free


# What users hold on to


def test_public_names_are_there_and_explained():
    for name in lrpfast.__all__:
        value = getattr(lrpfast, name)
        assert value.__doc__, f"lrpfast.{name} has no docstring"
    assert lrpfast.__all__ == sorted(lrpfast.__all__)


def test_version():
    try:
        version = metadata.version("lrpfast")
    except metadata.PackageNotFoundError:
        pytest.skip("lrpfast is not installed, only on the path")
    assert version == lrpfast.__version__


def test_data_is_packaged():
    assert {p.name for p in (PACKAGE / "data").iterdir()} >= {"seed.json", "seed_model.h5"}
    for name in ("seed.json", "seed_model.h5"):
        assert (PACKAGE / "data" / name).read_bytes() == (Path(__file__).parent / "data" / name).read_bytes()


def test_nothing_is_cached_under_a_lock_that_a_fork_could_leave_locked():
    users = [m for m in MODULES if "@functools.cached_property" in (PACKAGE / m).read_text(encoding="utf-8")]
    assert not users, "use lrpfast.lazy"


# What is written must hold on every machine

TEXT = {".py", ".pyx", ".pxd", ".c", ".h", ".md", ".toml", ".json", ".cfg", ".yml", ""}
PLACES = ("/work" + "/", "/home" + "/", "/root" + "/", "/Users" + "/", "/tmp" + "/")


def text_files():
    for top in ("src", "tests", "bench", "docs", "examples", ".ci", ".github"):
        yield from (p for p in (ROOT / top).rglob("*") if p.is_file() and p.suffix in TEXT)
    yield from (p for p in ROOT.glob("*") if p.is_file() and p.suffix in TEXT and p.name != ".git")  # a worktree's


def test_no_file_names_a_place_on_one_machine():
    found = []
    for path in text_files():
        if path.name in ("_cpu.c", "_moments.c"):  # made by Cython, not kept
            continue
        text = path.read_text(encoding="utf-8")
        found += [f"{path.relative_to(ROOT)}: {place}" for place in PLACES if place in text]
    assert not found
