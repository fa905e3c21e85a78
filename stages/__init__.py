"""The stages of the graph, each a module with the command that runs it."""

import os

# Arrow's own pool keeps more of what is freed the longer a process runs: 1 GB curated took 1.3 times the memory of
# 100 MB, and with the system's 1.1 times, of less. Arrow asks when it is imported.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
