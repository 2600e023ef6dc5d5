"""`repertory doctor`: what this machine has, what will not work, and what will be slow and why.

Everything that is said was looked at; what a rule cannot check it does not claim.
"""

from repertory.doctor.examine import examine
from repertory.doctor.findings import Finding, Level, Report

__all__ = ["Finding", "Level", "Report", "examine"]
