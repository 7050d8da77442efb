"""What fuzzing the readers found worth keeping: one small case for every way in which a damaged file can end.

`fuzz/corpus.jsonl` has a case on each line: a reader, the file it starts from and the edits that are made to it.
`fuzz/run.py --keep` writes such lines; a new finding is added once it is mended.
"""

import json
import warnings
from pathlib import Path

import pytest

from fuzz.edits import made
from fuzz.readers import READERS, problem

CASES = [json.loads(line) for line in (Path(__file__).parent / "fuzz" / "corpus.jsonl").read_text().splitlines()]
NEEDS = {"onnx": "onnx", "netcdf": "netCDF4", "zarr": "zarr"}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore::UserWarning")  # zarr's, of formats
def test_the_corpus(name, tmp_path):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} is not installed; lrpfast[test] brings it")
    reader, path = READERS[name], tmp_path / "file.bin"
    seeds = reader.make()
    cases = [case for case in CASES if case["reader"] == name]
    assert cases
    for case in cases:
        path.write_bytes(made(seeds[case["seed"]], case["edits"], seeds))
        try:
            reader.attempt(path)
        except Exception as error:
            assert problem(error, path) is None, f"{problem(error, path)}\n{json.dumps(case)}"


def test_unedited_files_are_read(tmp_path):
    for name, reader in READERS.items():
        if name in NEEDS:
            pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} is not installed; lrpfast[test] brings it")
        for seed, data in reader.make().items():
            (tmp_path / "file.bin").write_bytes(data)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                try:
                    reader.attempt(tmp_path / "file.bin")
                except Exception as error:
                    pytest.fail(f"{name}, {seed}: {error}")
