"""Makes the helper modules of this folder importable from every test, and gives every process one thread."""

import os

# before torch is imported: the number of threads changes the last bits, and runs in other processes must agree with ours
os.environ.setdefault("OMP_NUM_THREADS", "1")
