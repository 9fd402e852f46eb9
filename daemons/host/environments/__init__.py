"""Environments: containers on the host that people customise, packed as versions that every node can get."""
