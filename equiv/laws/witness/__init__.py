"""A broken law as its smallest case, in words, and as a program that fails."""

from equiv.laws.witness.again import Attempt, command_of
from equiv.laws.witness.failure import Failure, failure_of, failure_without_case
from equiv.laws.witness.origin import trimmed
from equiv.laws.witness.replay import check_case, tried
from equiv.laws.witness.smaller import smaller
from equiv.laws.witness.snippet import script_of
from equiv.laws.witness.sparser import sparser
from equiv.laws.witness.stored import Stored, case_text, read_case

__all__ = [
    "Attempt",
    "Failure",
    "Stored",
    "case_text",
    "check_case",
    "command_of",
    "failure_of",
    "failure_without_case",
    "read_case",
    "script_of",
    "smaller",
    "sparser",
    "tried",
    "trimmed",
]
