"""docs/scaling.md's job for Slurm runs as it stands, by a stand-in for Slurm's commands on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lrpfast
from pages import blocks

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
MODEL = Path(__file__).parent / "data" / "digits_mlp.h5"

pytestmark = pytest.mark.skipif(not Path("/bin/bash").exists(), reason="the job is a script of /bin/bash")
if not PAGE.exists():
    pytest.skip("the docs are not beside these tests", allow_module_level=True)

#: Options before the script override the script's own; the job ends with its script, whatever still runs, as in Slurm.
SBATCH = """
import os, re, signal, subprocess, sys

*options, path = sys.argv[1:]
with open(path) as file:
    options = re.findall(r"^#SBATCH (.*)", file.read(), re.M)[0].split() + options
chosen = dict(option.removeprefix("--").split("=") for option in options)
variables = {"JOB_ID": "17", "NTASKS": chosen["ntasks"], "CPUS_PER_TASK": chosen["cpus-per-task"]}
job = subprocess.Popen(
    ["/bin/bash", path],
    env=os.environ | {f"SLURM_{name}": value for name, value in variables.items()},
    start_new_session=True,
)
try:
    status = job.wait(240)
finally:
    os.killpg(job.pid, signal.SIGKILL)
sys.exit(status)
"""
#: A task gets one core unless it asks for more: since Slurm 22.05 the job's --cpus-per-task is not handed on.
SRUN = """
import os, subprocess, sys

options = [argument for argument in sys.argv[1:] if argument.startswith("--")][:1]
assert options == ["--cpus-per-task=" + os.environ["SLURM_CPUS_PER_TASK"]], options
tasks = range(int(os.environ["SLURM_NTASKS"]))
running = [subprocess.Popen(sys.argv[2:], env=os.environ | {"SLURM_PROCID": str(n)}) for n in tasks]
sys.exit(max(process.wait() for process in running))
"""
COMMANDS = {
    "sbatch": SBATCH,
    "srun": SRUN,
    # workers are spawned, which reads the command again
    "dask": "from dask.__main__ import main\nif __name__ == '__main__':\n    main()",
    "lrpfast": "import sys\nfrom lrpfast.cli import main\nsys.exit(main())",
}


def test_the_job_for_slurm(tmp_path):
    for package in ("distributed", "netCDF4", "xarray"):
        pytest.importorskip(package, reason=f"the job needs {package}")
    (script,) = (block for block in blocks(PAGE.read_text(encoding="utf-8"), "sh") if "SBATCH" in block)
    commands, job = tmp_path / "bin", tmp_path / "job"
    commands.mkdir(), job.mkdir()
    for name, code in COMMANDS.items():
        (commands / name).write_text(f"#!{sys.executable}\n{code}")
        (commands / name).chmod(0o755)
    (job / "job.sh").write_text(script)
    (job / "model.h5").write_bytes(MODEL.read_bytes())
    (job / "dask-17.json").write_text('{"address": "tcp://127.0.0.1:1"}')  # of the job before it was requeued
    x = np.load(MODEL.with_suffix(".npz"))["x"].astype(np.float32)
    write_netcdf(job / "x.nc", x)
    done = subprocess.run(
        [commands / "sbatch", "--ntasks=2", "--cpus-per-task=1", "job.sh"],
        cwd=job,
        env=os.environ
        | {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}
        | {"SCRATCH": str(job), "DASK_TEMPORARY_DIRECTORY": str(job)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(x)} samples explained" in done.stdout, done.stdout + done.stderr
    expected = lrpfast.Analyzer(lrpfast.load(MODEL), "epsilon").analyze(x).mean(0)
    with lrpfast.batch.open_source(f"{job / 'maps.nc'}:mean") as source:
        np.testing.assert_allclose(source.read(0, 1)[0], expected, rtol=1e-5, atol=1e-7)


def write_netcdf(path, x):
    import netCDF4

    with netCDF4.Dataset(path, "w") as file:
        for name, size in zip(("time", "point"), x.shape, strict=True):
            file.createDimension(name, size)
        file.createVariable("sst", x.dtype, ("time", "point"))[:] = x
