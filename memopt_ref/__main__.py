"""``python -m memopt_ref`` is the command ``memopt``."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="memopt")
