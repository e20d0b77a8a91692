"""A Kubernetes for the tests: its binaries, a control plane alone, and a cluster that runs containers."""
