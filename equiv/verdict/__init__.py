"""Do two results, or two layers, agree up to the rounding of right kernels? The outcome with its evidence."""

from equiv.verdict.gradient_forms import Form as Form
from equiv.verdict.gradient_forms import cause_of_gradient as cause_of_gradient
from equiv.verdict.gradient_forms import slides as slides
from equiv.verdict.gradients import judged_form as judged_form
from equiv.verdict.layers import assert_equivalent
from equiv.verdict.layers import parameter_verdict as parameter_verdict
from equiv.verdict.outcome import Entry, NotEquivalent, Outcome, Verdict
from equiv.verdict.outcome import share_words as share_words
from equiv.verdict.results import compare

__all__ = ["Entry", "NotEquivalent", "Outcome", "Verdict", "assert_equivalent", "compare"]
