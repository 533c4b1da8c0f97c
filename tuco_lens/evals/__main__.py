"""`python -m tuco_lens.evals` is `lm_eval` with the model `tuco`: the same arguments, the same output.

The harness has no way to find models outside its own package, so it is started from here. Errors of this package are
one line on stderr and exit status 2; those of the harness are the harness' own.
"""

from __future__ import annotations

import sys

from tuco_lens.cli.terminal import complain, set_up_streams
from tuco_lens.errors import TucoLensError
from tuco_lens.evals import register

BAD_INPUT = 2


def main() -> None:
    """Runs the harness with the arguments of this process."""
    set_up_streams()
    try:
        register()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except TucoLensError as error:
        complain("error", str(error))
        sys.exit(BAD_INPUT)


if __name__ == "__main__":
    main()
