"""pth2om: take a PyTorch checkpoint to an Ascend OM, with evidence that it still behaves like the PyTorch model."""

__version__ = "0.1.0"
