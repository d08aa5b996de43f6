"""``equiv demo``: the worked examples as a story. Every number is computed by `equiv.cli.worked` while you watch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from equiv.cli import options
from equiv.report import terminal as term

if TYPE_CHECKING:
    from equiv.cli.worked import Example, Networks, Width
    from equiv.verdict import Verdict


def demo(
    section: Annotated[
        str | None, typer.Option("--section", metavar="1..4", help="Show one section instead of all.")
    ] = None,
) -> None:
    """Show when a convolution is a fully connected layer, and when it is not, in four short sections."""
    out = term.console()
    sections = (three_forms, equal_bits, two_networks, not_the_layer)
    chosen = None if section is None else options.integer("--section", section, low=1, high=len(sections))
    for number, tell in enumerate(sections, start=1):
        if chosen in (None, number):
            tell(out)
    _next_steps(out)


def three_forms(out: Console) -> None:
    """Section 1."""
    from equiv.cli import worked

    example = worked.seed_123()
    term.heading(out, "1. One layer, carried out three ways")
    term.paragraph(
        out,
        """A fully connected layer that takes 4 numbers to 2 is 8 weights and 2 biases. These are the ones that torch
        draws after manual_seed(123), one row for each output:""",
    )
    for row, bias in zip(example.weight, example.bias, strict=True):
        term.lines(out, [f"weights {term.numbers(row)}   bias {bias:.4f}"], indent="    ")
    out.print()
    term.paragraph(
        out, "Give it the input 1, 2, 3, 4. The same 10 numbers can also be written as a convolution, in two ways:"
    )
    _forms_table(out, example)
    term.paragraph(
        out,
        """full: read the input as a 2x2 map, and make the kernel as large as the map. It fits in exactly one place, so
        each output is one sum of 4 products and a bias. Row by row, the weights of an output are its kernel.""",
    )
    term.paragraph(
        out,
        """pointwise: read the input as 4 channels of a map with one position. A 1x1 kernel sums over channels: the
        same 4 products again.""",
    )
    equal = all(all(form.equal) for form in example.forms)
    term.paragraph(
        out,
        f"""Are they equal? == says {"yes" if equal else "no"} here, and that is all it can say. A verdict knows the
        layer and the input, and with them how far apart two right results can lie:""",
    )
    for form in example.forms[1:]:
        term.lines(out, [f"{form.form}: {_words(form.verdict)}"], indent="    ", hanging="  ")
    out.print()


def equal_bits(out: Console) -> None:
    """Section 2."""
    from equiv.cli import worked

    example = worked.two_by_two()
    term.heading(out, "2. The same with other numbers, and why == is luck")
    term.paragraph(
        out,
        """The 2x2 map holds 1, 2, 3, 4 again; the weights are 1.1 to 1.8, the biases 1.9 and 2.0, and ReLU follows.
        ReLU keeps a number or replaces it by 0, so what was equal before it is equal after it.""",
    )
    _forms_table(out, example)
    term.paragraph(
        out,
        """Equal bits again, but only because 4 products leave little choice of order. A sum of floats depends on its
        order, and a matrix product and a convolution are free to choose their own. Fully connected against full form,
        normal weights and inputs, no bias, float32; refused counts what torch.testing.assert_close refuses by
        default:""",
    )
    rows = worked.widths()
    term.table(
        out,
        ("inputs", "outputs", "same bits", "refused", "worst/env", "verdict"),
        [
            (
                f"{row.in_features:,}",
                f"{row.outputs:,}",
                f"{row.same_bits:,}",
                f"{row.beyond_default:,}",
                _ratio(row.verdict.max_ratio),
                row.verdict.outcome.name,
            )
            for row in rows
        ],
        left=0,
    )
    wide = rows[-1]
    term.paragraph(
        out,
        f"""With {wide.in_features:,} inputs {wide.same_bits:,} of {wide.outputs:,} outputs have the same bits, and
        assert_close {_refuses(wide)}. Both layers are right: every output lies
        inside its envelope, the interval that a sum of these products can reach in any order. The worst error is
        {_ratio(wide.verdict.max_ratio)} of the way to its edge.""",
    )
    small, zero = worked.scaled(2.0**-5), worked.zeros_pass()
    term.paragraph(
        out,
        f"""Divide all weights by 32, a power of two that changes no digit of any result: assert_close now
        {_refuses(small)}, and the verdict stays {small.verdict.outcome.name} at {_ratio(small.verdict.max_ratio)}.
        Divide them by 2**24 and put zeros in place of the convolution: assert_close {_refuses(zero)}, the verdict is
        {zero.verdict.outcome.name}, {zero.verdict.max_ratio or 0:,.0f} times outside. A tolerance knows neither the
        number of terms nor their size; an envelope is made of them.""",
    )


def two_networks(out: Console) -> None:
    """Section 3."""
    from equiv.cli import worked

    sizes = " -> ".join(map(str, worked.LAYERS))
    elu, sigmoid = worked.networks("ELU", 1.0), worked.networks("sigmoid", 0.001)
    relative = elu.difference / elu.largest_logit
    term.heading(out, "3. Two networks with the same weights and other logits")
    term.paragraph(
        out,
        f"""A question from a forum, eight posts long. One network has Linear layers {sizes}, the other 1x1
        convolutions of the same sizes; {worked.BATCH} x {worked.SAMPLES} samples of {worked.LAYERS[0]} normal inputs,
        every weight and bias 1, ELU after the hidden layers. The logits are not the same. Where is the mistake?""",
    )
    term.paragraph(
        out,
        f"""The convolutions see a map of {worked.LAYERS[0]} channels and {worked.SAMPLES} x 1 positions, more than
        one. A 1x1 convolution is one layer applied at each position, and the Linear layer is one layer applied to each
        of the {worked.SAMPLES} samples: the same operation, so the comparison is fair. (It would not be if the layer
        took the whole map flattened: section 4.)""",
    )
    term.paragraph(
        out,
        f"""The logits reach {elu.largest_logit:.4g}, because each layer adds up what the one before has added up. The
        largest difference is {elu.difference:.4g}, which is {relative:.1e} of that. Is it rounding? Layer by layer:""",
    )
    _layers_table(out, elu)
    term.paragraph(
        out,
        """same bits, worst/env, verdict: the convolution against the Linear layer when both get the same input. apart:
        the largest difference of the two networks, each on its own way up to this layer. of bound: that difference as
        a fraction of what right kernels can reach, which follows from layer to layer: D = E_linear + E_conv + |W|
        D_before, where E is how far the envelope reaches from the exact result. The activation multiplies D by its
        steepest slope, 1 for ELU and 1/4 for sigmoid, and adds its own error.""",
    )
    term.paragraph(out, _networks_verdict(elu))
    term.paragraph(
        out,
        """The last post changed two things, sigmoid for ELU and 0.001 for 1, and the difference went away. It went as
        far as the numbers did:""",
    )
    _layers_table(out, sigmoid)
    term.paragraph(
        out,
        f"""The largest logit is {sigmoid.largest_logit:.4g} now and the largest difference {sigmoid.difference:.2g},
        which is {sigmoid.difference / sigmoid.largest_logit:.1e} of it. {_networks_verdict(sigmoid)}""",
    )
    term.paragraph(
        out,
        f"""Assumed in both: a computed ELU or sigmoid is at most {worked.ACTIVATION_ULPS} units of 2**-24 from the
        exact one. Measured here: {elu.activation_error:.2f} and {sigmoid.activation_error:.2f}.""",
    )


def not_the_layer(out: Console) -> None:
    """Section 4."""
    from equiv.cli import worked

    example = worked.not_the_layer()
    found = example.found
    channels, positions = found.conv_output_shape[0], found.in_features
    term.heading(out, "4. Where it is not true")
    term.paragraph(
        out,
        f"""Take the layer of section 1 and leave its input a map of 1 channel and 2x2 positions,
        {found.feature_shape}. A 1x1 convolution from 1 channel to {channels} runs on it without complaint. It is
        another function, which the sizes already say:""",
    )
    term.table(
        out,
        ("", "input", "output", "numbers", "weights"),
        [
            ("fully connected", "(4,)", f"({found.out_features},)", str(found.out_features), str(found.layer_weights)),
            (
                "1x1 convolution",
                str(found.feature_shape),
                str(found.conv_output_shape),
                str(channels * positions),
                str(found.conv_weights),
            ),
        ],
    )
    term.paragraph(
        out,
        f"""Summing each output channel over its {positions} positions makes the sizes fit, and nothing else. For the
        input 1, 2, 3, 4 the closest 1x1 convolution, the one whose weights are the means of the layer's, gives
        {term.numbers(example.conv_sums)} where the layer gives {term.numbers(example.layer_output)}.""",
    )
    index = list(found.witness_index or ())
    term.paragraph(
        out,
        f"""The smallest input that tells them apart has a single 1, at x{index}. Output
        {list(found.output_index or ())} is {_real(found.expected)} from the layer and {_real(found.actual)} from the
        convolution. Why: {found.reason}.""",
    )
    term.paragraph(
        out,
        f"""What the convolution really is: one layer of {found.feature_shape[0]} -> {channels} at each of {positions}
        positions. Written as a matrix over the flattened map that is K (x) I_{positions}, {found.dense_nonzeros} of
        {found.dense_entries} entries; a dot is a 0 that no choice of weights can change:""",
    )
    if found.picture:
        term.verbatim(out, "\n".join(found.picture.splitlines()[1:]), indent="  ")
    term.paragraph(
        out,
        """A layer over a flattened map with more than one position is a 1x1 convolution only if its own matrix has this
        pattern. If it has not, use a kernel as large as the map, as in section 1.""",
    )


def _next_steps(out: Console) -> None:
    term.heading(out, "Next")
    steps = [
        ("equiv verify", "try to break the laws behind this, on every form and dtype"),
        ("equiv counterexample 3x4x4 --out 8", "section 4 for a map of your own"),
        ("equiv env", "what is tested here, and in which arithmetic"),
    ]
    for command, purpose in steps:
        term.lines(out, [f"  {command:<36}{purpose}"], hanging=" " * 38)


def _forms_table(out: Console, example: Example) -> None:
    term.table(
        out,
        ("form", "weight", "input", "output", "values"),
        [
            (
                form.form,
                term.shape(form.weight_shape),
                term.shape(form.input_shape),
                term.shape(form.output_shape),
                term.numbers(form.output),
            )
            for form in example.forms
        ],
    )


def _layers_table(out: Console, found: Networks) -> None:
    term.table(
        out,
        ("layer", "same bits", "worst/env", "verdict", "apart", "of bound"),
        [
            (
                f"{step.in_features} -> {step.out_features}",
                f"{step.verdict.counts['identical'] / step.verdict.counts['total']:.1%}",
                _ratio(step.verdict.max_ratio),
                step.verdict.outcome.name,
                f"{step.difference:.2g}" if step.difference < 1 else f"{step.difference:,.0f}",
                _ratio(step.fraction),
            )
            for step in found.layers
        ],
    )


def _networks_verdict(found: Networks) -> str:
    right = all(step.verdict.equivalent for step in found.layers)
    last = found.layers[-1]
    if right and last.fraction <= 1:
        return (
            f"Verdict: rounding. All {len(found.layers)} convolutions lie inside the envelope on the same input, and "
            f"the {found.outputs} logits differ by at most {_ratio(last.fraction)} of the bound ({last.bound:.2g} for "
            "the worst one). There is no mistake to find."
        )
    wrong = sum(not step.verdict.equivalent for step in found.layers)
    return (
        f"Verdict: not rounding alone. {wrong} of {len(found.layers)} convolutions leave the envelope, and the logits "
        f"reach {_ratio(last.fraction)} of the bound."
    )


def _words(verdict: Verdict) -> str:
    return f"{verdict.outcome.name}: {verdict.explanation}"


def _refuses(width: Width) -> str:
    if width.beyond_default == 0:
        return "accepts all outputs"
    return f"refuses {width.beyond_default:,} of {width.outputs:,} outputs"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}" if value < 100 else f"{value:,.0f}"


def _real(value: complex | None) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
