"""Pre-flight: will ATC take this graph on this SoC, and if not, which node is at fault and what mends it."""
