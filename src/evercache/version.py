"""The version of this package. The build reads it from here; at run time nothing looks into the metadata."""

__version__ = "0.1.0"
