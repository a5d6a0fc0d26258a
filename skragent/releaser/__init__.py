"""The releaser: a process that does one job for the agent and exits.

`__main__` starts it and `job_io` carries the job in and the result out. `pipeline` runs
the stages of a release: `prefetch` and `tpm_worker` begin side by side,
`attestation_stage` gets an attestation token, and `release_stage` releases each key
through `vaults`. `ak_renewal` is the other kind of job.
"""
