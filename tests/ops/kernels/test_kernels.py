import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch

from featherbone.backbones.lit import DTM
from featherbone.backbones.lvt import CSA
from featherbone.deployment import use_form

LAWS = sorted(map(str, Path(__file__).parent.glob("laws_*.py")))
TRITON_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}

with_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")


def obey(interpret):
    """Run the laws in a process of their own: triton reads TRITON_INTERPRET when it is imported."""
    environment = {**os.environ, "TRITON_INTERPRET": interpret, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "--noconftest", "-p", "no:cacheprovider", "-q", *LAWS]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[3], text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


@with_triton
def test_kernels_obey_their_laws_in_the_interpreter():
    obey("1")


@with_triton
@pytest.mark.gpu
def test_kernels_obey_their_laws_on_a_gpu():
    obey("0")


class Launch:
    """Stands in for a kernel and keeps what it is launched with."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        def keep(*arguments, num_warps, enable_fp_fusion, **constants):
            self.arguments, self.constants = arguments, constants
            self.options = dict(num_warps=num_warps, enable_fp_fusion=enable_fp_fusion)

        return keep

    def compile(self, capability):
        """What triton makes of the launch for a GPU; it needs none for that."""
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        signature = dict.fromkeys(self.kernel.arg_names, "constexpr")
        aligned = {}
        for place, (name, value) in enumerate(zip(self.kernel.arg_names, self.arguments, strict=False)):
            signature[name] = "i32"
            if isinstance(value, torch.Tensor):
                signature[name] = f"*{TRITON_NAMES[value.dtype]}"
                aligned[(place,)] = [["tt.divisibility", 16]]
        source = ASTSource(self.kernel, signature, self.constants, aligned)
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=self.options).asm


@with_triton
@pytest.mark.parametrize(
    ("capability", "dtype"), [(75, torch.float16), (80, torch.bfloat16), (90, torch.float32)], ids=str
)
def test_kernels_compile_for_gpus(capability, dtype, monkeypatch, tmp_path):
    from featherbone.ops.kernels import csa, deform

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def compiled(module, name, operator, *shapes):
        launch = Launch(getattr(module, name))
        monkeypatch.setattr(module, name, launch)
        operator(*(torch.empty(shape, dtype=dtype) if isinstance(shape, tuple) else shape for shape in shapes))
        machine = launch.compile(capability)
        assert len(machine["cubin"]) > 1000
        return machine["ptx"]

    values, attention = (1, 7, 7, 9, 64), (1, 7, 7, 2, 81)
    assert "ld.global.v4.b32" in compiled(csa, "_mix", csa.csa_mix, values, attention, 14, 14)  # 16 bytes at once
    ptx = compiled(csa, "_mix_backward", csa.csa_mix_backward, (1, 14, 14, 64), values, attention)
    assert ("mma.sync" in ptx) == (capability >= 80 and dtype.itemsize == 2)  # tensor cores, where they are exact
    x, offsets = (1, 14, 14, 96), (1, 8, 7, 7)
    assert "ld.global.v4.b32" in compiled(deform, "_sample", deform.deform_sample, x, offsets)
    ptx = compiled(deform, "_sample_backward", deform.deform_sample_backward, (1, 7, 7, 4, 96), x, offsets)
    assert re.search(r"(atom|red)\.\S*add\.(\S+\.)?f32", ptx)  # the map's gradient is added up in float32


@with_triton
def test_a_network_uses_the_kernels_on_demand():
    from featherbone.ops.kernels.csa import csa_kernel
    from featherbone.ops.kernels.deform import merge_kernel

    lvt, lit = timm.create_model("lvt"), timm.create_model("lit_tiny", device="meta")
    for net in (lvt, lit):
        use_form(net, "triton")
    assert [m.mix for m in lvt.modules() if isinstance(m, CSA)] == 2 * [csa_kernel]
    assert [m.merge for m in lit.modules() if isinstance(m, DTM)] == 3 * [merge_kernel]
