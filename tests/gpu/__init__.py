"""Checks on a machine with a real NVIDIA driver: ``make test-gpu``. No part of the other tests: not one file
here has a name that they would collect."""
