"""Evidence: what the hardware, the paravisor and the vTPM say about this VM.

Pure modules parse and verify bytes. `tpm`, `nv` and `tpm_library` talk to the vTPM,
`imds` to the instance metadata service. docs/protocols/ has the facts and their
sources.
"""
