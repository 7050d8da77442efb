"""The package as a whole: what importing it costs, which folder may import which, what its files must not say."""

import ast
import re
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
    "coordinates": set(),
    "budget": {"errors"},
    "output": {"errors"},
    "suggest": set(),
    "lazy": set(),
    "table": set(),
    "display": set(),
    "version": set(),
    "model": {"errors", "output", "table"},
    "readers": {"budget", "errors", "lazy", "model"},
    "rules": {"errors", "model", "suggest"},
    "kernels": {"errors"},
    "engine": {
        *("budget", "display", "errors", "lazy", "output", "suggest", "table", "version", "model", "rules", "kernels"),
    },
    "batch": {
        *("budget", "coordinates", "display", "errors", "kernels", "lazy", "output", "table", "model", "readers"),
        *("rules", "engine", "version"),
    },
    "plot": {"coordinates", "display", "errors", "output", "engine", "kernels"},
    "reporting": {
        *("coordinates", "errors", "output", "table", "version", "model", "kernels", "rules", "engine", "batch"),
        *("plot", "analyzer", "ensemble", "evaluate"),
    },
    "evaluate": {"errors", "table", "kernels", "model", "readers", "engine", "batch", "plot", "analyzer"},
    "layers": {"model"},
    "composites": {"rules"},
    "concepts": {"engine", "batch"},
    "datasets": {"engine", "batch"},
    "analyzer": {"errors", "table", "model", "readers", "rules", "engine", "batch", "concepts", "datasets"},
    "ensemble": {"errors", "table", "rules", "batch", "analyzer"},
    "innvestigate": {"errors", "model", "readers", "rules", "engine", "analyzer"},
    "demo": {"output", "model", "readers", "engine", "kernels", "innvestigate"},
    "cli": {
        *("", "coordinates", "errors", "suggest", "table", "model", "readers", "rules", "engine", "batch", "kernels"),
        *("analyzer", "ensemble", "innvestigate", "demo", "plot", "evaluate", "output", "reporting"),
    },
    "__main__": {"cli"},
    "": {
        "version",
        "errors",
        "model",
        "readers",
        "rules",
        "engine",
        "layers",
        "composites",
        "plot",
        "analyzer",
        "ensemble",
        "innvestigate",
    },
}
#: the one import against the direction: what a method runs when it is called
AGAINST = {
    ("model/graph.py", "engine", "predict"),
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


@pytest.mark.parametrize("module", [m for m in MODULES if m.parts[0] in ("batch", "cli")], ids=str)
def test_nothing_above_the_engine_reads_a_private_attribute_of_an_analyzer(module):
    for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
            assert name not in ("analyzer", "core"), f"{module}:{node.lineno} reads {name}.{node.attr}"


#: imports of modules by modules that close a circle, and may: a method of a public class, or a package's own members
CIRCLES = {
    ("lrpfast.model.graph", "lrpfast.engine.execute"),  # Model.predict
}


def module_imports():
    """The modules of the package that each of them imports, anywhere: type-only imports and lazy ones too."""
    modules = {}
    for path in MODULES:
        parts = ["lrpfast", *path.with_suffix("").parts]
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    compiled = {".".join(["lrpfast", *p.relative_to(PACKAGE).with_suffix("").parts]) for p in PACKAGE.rglob("*.pyi")}
    imports = {}
    for name, path in modules.items():
        package = ["lrpfast", *path.parts[:-1]]
        targets = set()
        for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else []
                base = ".".join([*base, *([node.module] if node.module else [])])
                names = modules.keys() | compiled
                targets |= {full if (full := f"{base}.{a.name}") in names else base for a in node.names}
        imports[name] = (targets & set(modules)) - {name}
    return imports


def test_imports_of_modules_form_no_circle():
    imports = module_imports()
    left = {name: {t for t in targets if (name, t) not in CIRCLES} for name, targets in imports.items()}
    while left:
        free = {name for name, targets in left.items() if not targets & set(left)}
        if not free:
            break
        left = {name: targets for name, targets in left.items() if name not in free}
    assert not left, {name: sorted(targets & set(left)) for name, targets in left.items()}


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
    # .git is a file in a worktree of Git's, and names a path
    yield from (p for p in ROOT.glob("*") if p.is_file() and p.suffix in TEXT and p.name != ".git")


def test_no_file_names_a_place_on_one_machine():
    found = []
    for path in text_files():
        if path.name in ("_cpu.c", "_moments.c"):  # made by Cython, not kept
            continue
        text = path.read_text(encoding="utf-8")
        found += [f"{path.relative_to(ROOT)}: {place}" for place in PLACES if place in text]
    assert not found


# Sizes

CODE = {".py", ".pyx", ".pxi", ".pxd", ".c", ".h", ".cu"}
GENERATED = {"_cpu.c", "_moments.c"}


def code_files():
    return [p for p in sorted(PACKAGE.rglob("*")) if p.suffix in CODE and p.name not in GENERATED]


def test_no_file_is_long():
    long = {p.relative_to(PACKAGE).as_posix() for p in code_files() if len(p.read_text("utf-8").splitlines()) > 500}
    assert not long


def function_lengths(path):
    """(name, lines without the docstring) of a file's functions; of C and Cython by how their first lines begin."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                doc = node.body[0] if ast.get_docstring(node) is not None else None
                yield node.name, node.end_lineno - node.lineno + 1 - (doc.end_lineno - doc.lineno + 1 if doc else 0)
        return
    python = path.suffix in (".pyx", ".pxi", ".pxd")
    cython, c = r"\s*(?:cdef|cpdef|def)\b(?! class)[^=]*?(\w+)\(", r"(?=\w)(?!#|struct|enum).*?(\w+)\("
    head = re.compile(cython if python else c)
    lines = text.splitlines()
    starts = [(at, found[1]) for at, line in enumerate(lines) if (found := head.match(line))]
    for at, name in starts:
        indent = len(lines[at]) - len(lines[at].lstrip())
        end = at + 1
        if python:
            inside = re.compile(rf"\s{{{indent + 1}}}|\s*$|\s*\)")
            while end < len(lines) and inside.match(lines[end]):
                end += 1
            while not lines[end - 1].strip():
                end -= 1
        else:
            while end < len(lines) and not lines[end].startswith("}") and not head.match(lines[end]):
                end += 1
        yield name, end - at


def test_no_function_is_long():
    long = {
        f"{path.relative_to(PACKAGE).as_posix()}:{name}"
        for path in code_files()
        for name, lines in function_lengths(path)
        if lines > 60
    }
    assert not long


#: files and names that have better ones
OLD_FILES = (
    *("once.py", "names.py", "rules/names.py", "batch/apart.py", "batch/shares.py", "batch/offsets.py"),
    *("batch/optional.py", "batch/blocks.py", "batch/results.py", "batch/maps.py", "batch/labels.py"),
    *("readers/places.py", "readers/guard.py", "engine/ports.py", "engine/units.py", "engine/signs.py"),
    *("engine/passes.py", "engine/linear.py", "engine/contractions.py", "engine/explained.py", "engine/record.py"),
    *("engine/analyzer.py", "readers/onnx/moves.py", "readers/torch/moves.py", "readers/onnx/use.py"),
    *("kernels/place.py", "kernels/check.py", "kernels/cuda/products.py", "kernels/cuda/planes.cu"),
)
OLD_NAMES = (
    *("check_apart", "Begun", "Port", "Ports", "Lowering", "Replays", "Began", "Held", "Across", "Unmask", "Remask"),
    *("Slope", "Unpool", "Begin", "spread_columns", "spread_weights", "run_together", "_told", "_packed", "_filled"),
)


def test_old_names_are_gone():
    assert not [name for name in OLD_FILES if (PACKAGE / name).exists()]
    old = re.compile(rf"\b({'|'.join(OLD_NAMES)})\b")
    found = []
    for path in code_files():
        found += [f"{path.relative_to(PACKAGE)}: {name}" for name in old.findall(path.read_text(encoding="utf-8"))]
    assert not found
