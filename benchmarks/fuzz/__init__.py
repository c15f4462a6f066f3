"""Mutated input for everything that segcft reads: ``python -m benchmarks.fuzz --help``.

An input is read, or refused with an error of segcft that names it. Anything else is a finding: another exception, a
crash, more than :data:`~benchmarks.fuzz.work.SECONDS` or more than :data:`~benchmarks.fuzz.work.MEMORY`.
"""
