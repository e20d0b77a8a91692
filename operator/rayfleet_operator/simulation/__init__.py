"""A model's replicas, routers and autoscaling on a clock that nobody waits for.

`simulator.simulate` replays requests: through the queues of the routers, the batcher of each replica and a measured
service-time curve, with the autoscaling's own rules (`rayfleet_serving.autoscaling`) deciding about replicas each
second. Pure: no Ray, no network, no clock, no chance but what is handed in.
"""
