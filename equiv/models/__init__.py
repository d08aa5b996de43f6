"""Whole models: do these two compute the same, where do they first part, and convert one for me."""

__all__: list[str] = []
