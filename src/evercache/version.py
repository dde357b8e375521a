"""The version of this package. The build reads it from here; at run time nothing looks into the metadata."""

from typing import Final

__version__: Final = "0.1.0"
