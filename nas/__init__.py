"""Neural architecture search over stacked hourglass networks for human pose."""

__version__ = "0.2.0"
