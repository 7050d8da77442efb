"""iNNvestigate as a tool of this process: what `innvestigate_worker` does in another one."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tool import Missing

#: Names the Python of an environment with iNNvestigate; ``innvestigate_env.sh`` makes one.
VARIABLE = "LRPFAST_INNVESTIGATE_PYTHON"


class Innvestigate:
    """A worker that holds one network, one rule and its inputs; called as a `Tool`, timed by its own clock."""

    name = "innvestigate"

    def __init__(self, network: str, rule: str, samples: int, small: bool) -> None:
        python = os.environ.get(VARIABLE)
        if not python:
            raise Missing(f"{VARIABLE} does not name a Python with iNNvestigate; see bench/README.md")
        worker = Path(__file__).with_name("innvestigate_worker.py")
        arguments = [python, str(worker), network, rule, str(samples), *(["--small"] if small else [])]
        self.samples = samples
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, as long as the worker
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        opened = self._answer()
        if "missing" in opened:
            self.close()
            raise Missing(opened["missing"])
        self.versions: dict[str, str] = opened["versions"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise RuntimeError("iNNvestigate's process ended:\n" + self._errors.read()[-4000:])
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, **request: Any) -> dict[str, Any]:
        """The worker's answer to a request."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def of_first(self, count: int) -> np.ndarray:
        """Relevance of the first samples."""
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/relevance.npy"
            self.ask(do="relevance", count=count, path=path)
            relevance: np.ndarray = np.load(path)
            return relevance

    def timer(self, samples: int | None = None, size: int | None = None) -> RemoteTimer:
        """A clock in the worker for a call with ``samples``, ``size`` at a time."""
        samples = self.samples if samples is None else samples
        return RemoteTimer(self, samples, samples if size is None else size)

    def close(self) -> None:
        """End the worker."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._errors.close()


@dataclass(frozen=True, eq=False)
class RemoteTimer:
    """As `tool.Timer`: the worker's seconds for a call, without the talk between the processes."""

    tool: Innvestigate
    samples: int
    size: int

    def __call__(self, number: int = 1) -> float:
        seconds: float = self.tool.ask(do="time", samples=self.samples, size=self.size, number=number)["seconds"]
        return seconds
