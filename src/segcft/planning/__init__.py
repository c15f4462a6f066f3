"""Settings that plan themselves: from a fingerprint of the data, the machine and the hours, as nnU-Net (Isensee 2021).

A study file gives variables, structures and data. What it leaves out is planned once for a run and recorded in it with
a reason for each value; see docs/planning.md.
"""
