"""Shared by this repository's tests; the fixtures of the acceptance tests live in the plugin, pth2om.harness.plugin."""
