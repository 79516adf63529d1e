"""Validation, warnings, interrupts and files."""
