"""With LRPFAST_TEST_DEVICE=standin, every test that leaves the device open runs the GPU kernels on the CPU."""

import os

import standin_loader

if os.environ.get("LRPFAST_TEST_DEVICE") == "standin":
    standin_loader.install()
