"""`python -m tuco_lens` is `tuco-lens`."""

from __future__ import annotations

from tuco_lens.cli import main

if __name__ == "__main__":
    main()
