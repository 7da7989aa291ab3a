"""``python -m mdsa_local`` is the command ``mdsa``."""

import sys

# As a shell tells an interruption.
INTERRUPTED = 130


def main() -> None:
    """The command; who interrupts it while it is still being read gets no traceback."""
    try:
        from mdsa_local.cli.main import run
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    run()


if __name__ == "__main__":
    main()
