"""``python -m mdsa_local`` is the command ``mdsa``."""

from mdsa_local.cli.main import run

if __name__ == "__main__":
    run()
