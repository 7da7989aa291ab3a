"""The process that :mod:`mdsa_local.knowledge.loaders.contained` starts: requests on standard input, one answer for each on standard output.

An exception that no loader expects ends it; its last words on standard error are what the user reads.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path

from mdsa_local.knowledge.loaders import UnreadableError, loader
from mdsa_local.knowledge.loaders.contained import write


def main(memory_bytes: int) -> None:
    """Answer ``[family, path, spool]`` with ``{"problem": ""}``, or with why the file cannot be used."""
    if sys.platform == "linux":
        import resource

        # Address space, not memory: the parent watches that more tightly, but not between two looks.
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    # Nobody reads the pipe before the end: what a parser grumbles would fill it and stop everything.
    warnings.simplefilter("ignore")
    logging.disable()
    for line in sys.stdin.buffer:
        name, path, spool = json.loads(line)
        problem = ""
        try:
            write(loader(name).read(Path(path)), Path(spool))
        except UnreadableError as error:
            problem = str(error)
        except OSError as error:
            problem = f"cannot be read: {error.strerror or error}"
        except MemoryError:
            problem = f"parsing it takes more than {memory_bytes >> 20} MB of memory"
        sys.stdout.write(json.dumps({"problem": problem}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
