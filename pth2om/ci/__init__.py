"""Pipelines for a CI: what `pth2om ci` writes."""
