"""A broken law as its smallest case, in words, and as a program that fails."""

from equiv.laws.witness.failure import Failure, failure_of, failure_without_case
from equiv.laws.witness.replay import check_case
from equiv.laws.witness.smaller import smaller

__all__ = ["Failure", "check_case", "failure_of", "failure_without_case", "smaller"]
