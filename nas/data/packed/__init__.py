"""Packed files: crops and joints of all people in one HDF5 file."""
