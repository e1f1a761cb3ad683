import platform
import subprocess
import sys

import pytest

# Frees arrays of 16 MB, from which on glibc takes smaller ones out of a pool that it
# keeps; then asks how much of 64 arrays of 8 MB stays when all but the last are freed.
KEPT = """
import sys
from pathlib import Path
import numpy as np
from onetoall_jax.host_memory import give_back_large_arrays

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

np.ones(2**24, np.uint8)
if sys.argv[1] == "given back":
    give_back_large_arrays()
before = resident()
arrays = [np.ones(2**23, np.uint8) for _ in range(64)]
arrays[:-1] = []
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
@pytest.mark.parametrize("way, least, most", [("given back", 0, 16), ("", 256, 600)])
def test_large_arrays_go_back_to_the_system(way, least, most):
    made = subprocess.run(
        [sys.executable, "-c", KEPT, way], capture_output=True, text=True, check=True
    )
    assert least <= int(made.stdout) / 2**20 <= most
