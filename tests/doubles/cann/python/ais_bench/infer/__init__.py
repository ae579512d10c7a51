"""A double of ``ais_bench.infer``."""
