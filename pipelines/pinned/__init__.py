"""One host with several devices and without containers: every step in a process of its own, on devices of its own.

`flavor` is the ZenML step operator, `operator` what it does, `leases` which process has which device, `supervisor` the
process that starts and ends the steps' processes, `crew` how it is spoken to, `stack` how all of it is registered.
"""
