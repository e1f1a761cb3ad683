"""Devices: the mesh, the rules from logical axes to it, the start of several hosts."""
