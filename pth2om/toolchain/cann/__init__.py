"""The real CANN: atc and an NPU on this machine, or on boards over SSH."""
