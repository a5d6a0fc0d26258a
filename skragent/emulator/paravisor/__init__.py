"""The paravisor (OpenHCL): the vTPM's keys, the HCL report and the measured boot."""
