"""What can go wrong in the emulated world, on demand: one catalogue.

A fault has a name, such as `maa.status=503,retry_after=5`: `grammar` says how names are
written, `catalogue` which there are, and the other modules what each does. `faults`
applies and undoes them; `control` is the socket that calls it.
"""
