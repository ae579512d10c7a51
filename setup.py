"""What pyproject.toml cannot say: what of this repository the wheel carries beside the package.

The acceptance tests, for ``pth2om init``; the small model that the window lets a first-time visitor try.
"""

from setuptools import find_namespace_packages, setup

BESIDE = {
    "pth2om.test_cases": "test_cases",
    "pth2om.models.convmixer": "models/convmixer",
    "pth2om.models.convmixer-digits": "models/convmixer-digits",
}

setup(packages=[*find_namespace_packages(include=["pth2om*"]), *BESIDE], package_dir=BESIDE)
