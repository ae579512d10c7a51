"""Is the checkpoint whole, and does it fit its net?"""

import pytest

pytestmark = pytest.mark.question("checkpoint")


@pytest.mark.asks("stage", "checkpoint")
def test_checkpoint_fits_its_net(checkpoint, accept):
    accept.stage(checkpoint)
