"""What the tests of INT8 share."""

from __future__ import annotations

import pytest

from tests.quantize.spec_models import classifier


@pytest.fixture
def root(tmp_path):
    """See `classifier`."""
    return classifier(tmp_path)
