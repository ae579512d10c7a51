"""What pyproject.toml cannot say: the wheel carries the acceptance tests of this repository, for ``pth2om init``."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["pth2om*"]), "pth2om.test_cases"],
    package_dir={"pth2om.test_cases": "test_cases"},
)
