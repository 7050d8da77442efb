"""Operations of programs: each has all that it takes, and both backends know it by the same names and numbers."""

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import lrpfast
from lrpfast.kernels import _cpu, codes, contraction_ops, ops
from lrpfast.kernels.cpu import CpuBackend
from lrpfast.kernels.cuda import light, modules, structs
from lrpfast.kernels.operation import ROWS, Operation, row_of
from lrpfast.kernels.ops import Copy
from lrpfast.kernels.program import Program
from lrpfast.model.layers import FUNCTIONS

PACKAGE = Path(lrpfast.__file__).parent
#: operations whose kernels in `cuda` are not in light.cu
ELSEWHERE = {contraction_ops.Contract, contraction_ops.Redistribute, ops.InitRelevance, ops.MaskRelevance}


def records(module):
    return {v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Operation) and v is not Operation}


def cuda_kernels(module):
    """The kernels of a module's source."""
    text = modules.source(module)
    light_ones = {f"light_{name}" for name in re.findall(r"^LIGHT\((\w+)\)", text, re.M)}
    return light_ones | set(re.findall(r"^(\w+)\([^()]*RUN_ARGUMENTS\)", text, re.M))


def test_every_operation_has_a_row():
    assert records(ops) | records(contraction_ops) == set(ROWS)


def test_every_row_has_a_cpu_kernel_and_every_kernel_a_row():
    assert {row.kernel for row in ROWS.values()} == set(_cpu.KERNELS)


def test_every_row_has_a_cuda_kernel():
    found = cuda_kernels("light")
    missing = [row.kernel for cls, row in ROWS.items() if cls not in ELSEWHERE and f"light_{row.kernel}" not in found]
    assert not missing, f"light.cu has no LIGHT({missing[0]})"
    assert {"init_relevance", "mask_relevance"} <= cuda_kernels("input")


def test_every_cuda_kernel_has_a_row():
    variants = {"light_relu", "light_softmax"}  # of Activate
    assert cuda_kernels("light") == variants | {f"light_{r.kernel}" for c, r in ROWS.items() if c not in ELSEWHERE}


def test_every_operation_is_lowered():
    """The engine writes it into programs."""
    text = "".join(path.read_text(encoding="utf-8") for path in (PACKAGE / "engine").glob("*.py"))
    missing = [cls.__name__ for cls in ROWS if not re.search(rf"\b{cls.__name__}\(", text)]
    assert not missing, f"nothing in engine/ makes {', '.join(missing)}"


def test_rows_name_fields_of_their_records():
    for cls, row in ROWS.items():
        names = {f.name for f in fields(cls)}
        if cls not in (contraction_ops.Contract, contraction_ops.Redistribute):
            numbers = dict.fromkeys(names, 0) | {"sources": (0, 0)}
            stand_in = type(cls.__name__, (), {name: numbers[name] for name in names})
            reads, writes = row.buffers(stand_in)
            assert writes and all(isinstance(b, int) for b in (*reads, *writes))


@pytest.mark.parametrize("enum", codes.ENUMS, ids=lambda enum: enum.__name__)
def test_both_sides_have_the_same_codes(enum):
    assert _cpu.CODES[enum.__name__] == {member.name: int(member) for member in enum}


def test_cuda_has_the_codes():
    header = modules.header()
    for enum in codes.ENUMS:
        for member in enum:
            assert re.search(rf"[{{,] {member.name} = {int(member)}[,\s]", header), member


def test_functions_are_those_of_the_layers():
    assert {*codes.FUNCTIONS, "linear"} == set(FUNCTIONS)


def test_arguments_are_fields_of_both_records():
    texts = ((PACKAGE / "kernels" / name).read_text(encoding="utf-8") for name in ("ops.py", "product_ops.py"))
    text = "".join(texts)
    used = set(re.findall(r'"(\w+)": (?:o\.|h\.|\(|None|STAB|FUNC|numbers|values|table)', text))
    assert used >= {"p", "values", "index", "geometry", "m", "columns"}, "the rows are written in another way"
    assert used <= set(structs.LIGHT.names)


# What is not an operation, or does not fit, is refused before anything runs.


class Unknown(Operation):
    """An operation without a row."""

    source, out = 0, 1


def program(*operations, sizes=(3, 3)):
    return Program(sizes, operations, (), output=1, result=None)


def test_an_operation_without_a_row_is_an_error():
    with pytest.raises(ValueError, match="Unknown is not an operation of a program: it has no row in kernels/ops.py"):
        row_of(Unknown())
    with pytest.raises(ValueError, match="Unknown is not an operation"):
        CpuBackend().compile(program(Unknown()))


def test_a_row_without_a_kernel_is_an_error(monkeypatch):
    monkeypatch.delitem(_cpu.KERNELS, "copy")
    with pytest.raises(ValueError, match="the CPU has no kernel 'copy'"):
        CpuBackend().compile(program(Copy(0, 1)))


def test_an_argument_that_no_record_has_is_an_error(monkeypatch):
    row = ROWS[Copy]
    other = type(row)(row.kernel, row.buffers, row.check, lambda o: {"hue": 1})
    monkeypatch.setitem(ROWS, Copy, other)
    with pytest.raises(ValueError, match="kernels take no argument hue"):
        CpuBackend().compile(program(Copy(0, 1)))


@pytest.mark.parametrize(
    ("operation", "sizes", "reason"),
    [
        (Copy(0, 1), (3, 4), "Copy: buffers differ in size"),
        (ops.Gather(0, 1, np.array([0, 3, 1])), (3, 3), "Gather: indices outside"),
        (ops.Scatter(0, 1, np.array([0, 1])), (3, 3), "Scatter: an index for each value"),
        (ops.Strided(0, 1, 2, 2, 0, 2), (3, 3), "Strided: runs reach outside"),
        (ops.SumChannels(0, 1, 2), (6, 2), "SumChannels: buffers do not fit the columns"),
        (ops.SumChannels(0, 1, 0), (6, 2), "SumChannels: no columns"),
        (ops.DotOp(0, 0, 1, 2, 2, 2), (4, 3), "DotOp: buffers do not fit m, n and k"),
        (ops.SoftmaxBack(None, 0, 0, 0, 3), (3, 3), "SoftmaxBack: the output may not be a source"),
        (ops.Accumulate((0, 1), 1), (3, 3), "Accumulate: only the first source may be the output"),
        (ops.Scale(0, 1, np.ones(2)), (3, 3), "Scale: a value for each element"),
        (ops.Normalize(0, 1, 3, True, 0.0, np.ones(2)), (3, 3), "Normalize: gamma has a value for each column"),
        (contraction_ops.Divide(0, np.ones(2), 1, 0.1), (3, 3), "Divide: z differs in size"),
        (contraction_ops.Divide(0, 0, 1, 0.1, mask=1), (3, 3), "Divide: a mask without its z"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_an_error(operation, sizes, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        CpuBackend().compile(program(operation, sizes=sizes))


def test_names_of_cuda_kernels():
    relu = {"max_value": None, "negative_slope": 0.0, "threshold": 0.0}
    assert light.kernel_name(ops.Activate(0, 1, "relu", relu)) == "light_relu"
    assert light.kernel_name(ops.Activate(0, 1, "relu", {**relu, "max_value": 6.0})) == "light_activate"
    assert light.kernel_name(ops.Activate(0, 1, "softmax")) == "light_softmax"
    assert light.kernel_name(ops.RestoreNaN(0, 1)) == "light_restore_nan"


# CONTRIBUTING.md's example.

CONTRIBUTING = Path(__file__).parent.parent / "CONTRIBUTING.md"


def example():
    """The example's blocks of code by their language."""
    text = CONTRIBUTING.read_text(encoding="utf-8").partition("## Add an operation")[2].partition("\n## ")[0]
    blocks = re.findall(r"```(\w+)\n(.*?)```", text, re.S)
    return {language: re.sub(r"^   ", "", code, flags=re.M) for language, code in blocks}


@pytest.mark.skipif(not CONTRIBUTING.exists(), reason="needs CONTRIBUTING.md, which an installed package has not")
def test_the_example_of_a_new_operation():
    """Its record gives it a row; its kernels are of the row's name; and without them it is refused."""
    blocks = example()
    namespace = {**vars(ops), "__name__": ops.__name__}
    before = dict(ROWS)
    try:
        exec(compile(blocks["python"], "CONTRIBUTING.md", "exec", dont_inherit=True), namespace)
        square = namespace["Square"]
        row = ROWS[square]
        assert row.overflows and row.buffers(square(4, 5)) == ((4,), (5,))
        assert f'register("{row.kernel}", ' in blocks["cython"] and f"LIGHT({row.kernel})" in blocks["cuda"]
        with pytest.raises(ValueError, match="Square: buffers differ in size"):
            row.check(square(0, 1), (3, 4))
        with pytest.raises(ValueError, match="the CPU has no kernel 'square'"):
            CpuBackend().compile(program(square(0, 1)))
    finally:
        ROWS.clear()
        ROWS.update(before)


@pytest.mark.parametrize("columns", [3, 20, 40])
def test_what_stands_for_zero_in_narrow_and_wide_layers(columns):
    term = contraction_ops.Term(0, np.ones((4, columns), np.float32))
    contract = contraction_ops.Contract((term,), (contraction_ops.Output(1, zero=1e-24),))
    program = Program((4, columns), (contract,), (), output=1, result=None)
    x, out = np.array([[1, -1, 2, -2], [1, 0, 0, 0]], np.float32), np.empty((2, columns), np.float32)
    assert CpuBackend().compile(program).run(x, out, threads=1) is None
    assert (out[0] == np.float32(1e-24)).all() and (out[1] == 1).all()
