"""Faults that the emulator can apply on demand.

A fault has a name, such as `maa.status=503,retry_after=5`. `grammar` parses names,
`catalogue` lists the faults, and the modules of the services implement them. `faults`
applies and resets them; `control_socket` lets other processes do so.
"""
