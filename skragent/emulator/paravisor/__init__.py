"""The paravisor: the vTPM's keys, the HCL report and the measured boot."""
