"""Shared by this repository's tests; the fixtures of the acceptance tests live in pth2om.harness.fixtures."""
