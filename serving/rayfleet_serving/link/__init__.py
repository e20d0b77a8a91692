"""The hop between a router and a model replica: one TCP connection for each pair, calls multiplexed on it.

A Serve handle call costs about a millisecond of CPU time on either side; a frame here costs a tenth of that, and a
replica that dies is noticed when the kernel closes its socket, not at the next health check. Serve still decides which
replicas there are, starts and stops them; the handle is used to find them (`router.replicas`) and for their metadata.

Frames carry msgpack and raw arrays, never pickle, and a connection starts with a token that only Serve's own,
authenticated channel hands out.
"""
