"""Print the pins of the environment this runs in, in the form of constraints.txt. `make pins` uses it.

What `pip freeze` cannot do: local versions (torch 2.13.0+cpu) are cut to the public ones, so that any build of that
release satisfies the pin, and a release that needs a newer Python than this package carries a marker, so that an older
Python falls back to a release that it can install.
"""

from __future__ import annotations

import sys
from importlib.metadata import Distribution, distributions

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

NOT_PINNED = {"tuco-lens", "pip", "setuptools", "wheel"}
OLDEST_MINOR = 10
HEADER = f"""\
# Exact versions of all that the development, documentation and test environments install. Written by `make pins`, with
# Python {sys.version_info.major}.{sys.version_info.minor} on {sys.platform}; a marker stands where a release needs a newer Python than 3.{OLDEST_MINOR}.
"""  # noqa: E501


def marker(distribution: Distribution) -> str:
    """The environment marker of a pin, empty where every supported Python can install the release."""
    supported = SpecifierSet(distribution.metadata.get("Requires-Python") or "")
    oldest = next(minor for minor in range(OLDEST_MINOR, sys.version_info.minor + 1) if f"3.{minor}.99" in supported)
    return "" if oldest == OLDEST_MINOR else f' ; python_version >= "3.{oldest}"'


def main() -> None:
    pins = {
        canonicalize_name(distribution.name): f"=={Version(distribution.version).public}{marker(distribution)}"
        for distribution in distributions()
    }
    print(HEADER + "\n".join(name + pins[name] for name in sorted(pins.keys() - NOT_PINNED)))


if __name__ == "__main__":
    main()
