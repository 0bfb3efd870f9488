"""Chunks trained past one machine, by Dask; `engine` is where it begins."""
