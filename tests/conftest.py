"""Makes the helper modules of this folder importable from every test, and gives every process one thread."""

import os

# before torch is imported: the last bits depend on the number of threads, and runs in other processes must agree
os.environ.setdefault("OMP_NUM_THREADS", "1")
