"""The marks for torch.compile, which must not load it."""

import subprocess
import sys

import torch

from catchment.compile_marks import constant, not_compiled


def test_not_compiled_runs_outside_of_a_compiled_function():
    seen = []

    @not_compiled
    def total(x):
        seen.append(torch.compiler.is_compiling())
        return x.sum().item() + x

    compiled = torch.compile(lambda x: total(2 * x) + 1, backend="aot_eager")
    for _ in range(2):
        assert compiled(torch.ones(3)).tolist() == [9.0, 9.0, 9.0]
    assert total(torch.ones(3)).tolist() == [4.0, 4.0, 4.0]
    assert seen == [False, False, False]


def test_a_constant_is_not_traced():
    calls = []

    @constant
    def two():
        calls.append(1)
        return len(calls) + 1  # a constant is what the first call gave

    compiled = torch.compile(lambda x: x + two(), backend="aot_eager", fullgraph=True)
    first = compiled(torch.zeros(2)).tolist()
    assert compiled(torch.zeros(2)).tolist() == first


def test_importing_catchment_does_not_load_the_compiler():
    program = "import sys, catchment; print('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "False"
