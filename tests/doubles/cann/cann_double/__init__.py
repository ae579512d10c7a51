"""What the doubles of CANN share: their machine, the failures that a test asks for, their ``.om`` files."""
