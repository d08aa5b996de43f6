"""``equiv demo``: the worked examples as a story. Every number is computed by `equiv.cli.worked` while you watch."""

from __future__ import annotations

from equiv.cli import worked
from equiv.report.terminal import Page


def show(section: int | None) -> None:
    """All sections, or the one of this number."""
    page = Page()
    for number, tell in enumerate(SECTIONS, start=1):
        if section in (None, number):
            tell(page)
    page.heading("Next")
    steps = {
        "equiv verify": "try to break the laws behind this, on every form and dtype",
        "equiv counterexample 3x4x4 --out 8": "section 4 for a map of your own",
        "equiv env": "what is tested here, and in which arithmetic",
    }
    page.lines([f"  {command:<36}{purpose}" for command, purpose in steps.items()], hanging=" " * 38)


def three_forms(page: Page) -> None:
    """Section 1."""
    example = worked.seed_123()
    page.heading("1. One layer, carried out three ways")
    page.prose("""A fully connected layer that takes 4 numbers to 2 is 8 weights and 2 biases. These are the ones that
        torch draws after manual_seed(123), one row for each output:""")
    parameters = zip(example.layer.weight.tolist(), example.layer.bias.tolist(), strict=True)
    page.lines([f"weights {_numbers(row)}   bias {bias:.4f}" for row, bias in parameters], indent="    ")
    page.prose("Give it the input 1, 2, 3, 4. The same 10 numbers can also be written as a convolution, in two ways:")
    _forms_table(page, example)
    equal = all(form.output.flatten().equal(example.forms[0].output.flatten()) for form in example.forms)
    page.prose(f"""full: read the input as a 2x2 map, and make the kernel as large as the map. It fits in exactly one
        place, so each output is one sum of 4 products and a bias. Row by row, the weights of an output are its kernel.

        pointwise: read the input as 4 channels of a map with one position. A 1x1 kernel sums over channels: the same 4
        products again.

        Are they equal? == says {"yes" if equal else "no"} here, and that is all it can say. A verdict knows the layer
        and the input, and with them how far apart two right results can lie:""")
    verdicts = {form.form: form.verdict for form in example.forms[1:]}
    texts = [f"{form}: {verdict.outcome.name}: {verdict.explanation}" for form, verdict in verdicts.items()]
    page.lines(texts, indent="    ", hanging="  ")


def equal_bits(page: Page) -> None:
    """Section 2."""
    page.heading("2. The same with other numbers, and why == is luck")
    page.prose("""The 2x2 map holds 1, 2, 3, 4 again; the weights are 1.1 to 1.8, the biases 1.9 and 2.0, and ReLU
        follows. ReLU keeps a number or replaces it by 0, so what was equal before it is equal after it.""")
    _forms_table(page, worked.two_by_two())
    page.prose("""Equal bits again, but only because 4 products leave little choice of order. A sum of floats depends on
        its order, and a matrix product and a convolution are free to choose their own. Here is the fully connected
        layer against its full form, with normal weights and inputs, no bias, in float32. refused: outputs that
        torch.testing.assert_close refuses by default. worst: the largest error as a fraction of its envelope, which is
        the interval that a sum of these products can reach in any order:""")
    rows = [worked.width(n) for n in worked.WIDTHS]
    cells = [
        (*(f"{number:,}" for number in (row.in_features, row.outputs, row.same_bits, row.refused)), *_judged(row))
        for row in rows
    ]
    page.table(("inputs", "outputs", "same bits", "refused", "worst", "verdict"), cells, left=0)
    wide = rows[-1]
    small = worked.width(wide.in_features, scale=2.0**-5)
    zero = worked.width(wide.in_features, scale=2.0**-24, zeros=True)
    page.prose(f"""With {wide.in_features:,} inputs {wide.same_bits:,} of {wide.outputs:,} outputs have the same bits,
        and assert_close {_refuses(wide)}. Both layers are right: every output lies inside its envelope, and the worst
        error is {_ratio(wide.verdict.max_ratio)} of the way to its edge.

        Divide all weights by 32, a power of two that changes no digit of any result: assert_close now
        {_refuses(small)}, and the verdict stays {small.verdict.outcome.name} at {_ratio(small.verdict.max_ratio)}.
        Divide them by 2**24 and put zeros in place of the convolution: assert_close {_refuses(zero)}, the verdict is
        {zero.verdict.outcome.name}, {zero.verdict.max_ratio or 0:,.0f} times outside. A tolerance knows neither the
        number of terms nor their size; an envelope is made of them.""")


def two_networks(page: Page) -> None:
    """Section 3."""
    first = worked.LAYERS[0]
    elu, sigmoid = worked.networks("ELU", 1.0), worked.networks("sigmoid", 0.001)
    page.heading("3. Two networks with the same weights and different logits")
    page.prose(f"""A question from a forum, eight posts long. One network has Linear layers
        {" -> ".join(map(str, worked.LAYERS))}, the other 1x1 convolutions of the same sizes; {worked.BATCH} x
        {worked.SAMPLES} samples of {first} normal inputs, every weight and bias 1, ELU after the hidden layers. The
        logits are not the same. Where is the mistake?

        The convolutions see a map of {first} channels and {worked.SAMPLES} x 1 positions, more than one. A 1x1
        convolution is one layer applied at each position, and the Linear layer is one layer applied to each of the
        {worked.SAMPLES} samples: the same operation, so the comparison is fair. (It would not be if the layer took the
        whole map flattened: section 4.)

        The logits reach {elu.largest_logit:.4g}, because each layer adds up what the one before has added up. The
        largest difference is {elu.difference:.4g}, which is {elu.difference / elu.largest_logit:.1e} of that. Is it
        rounding? Layer by layer:""")
    _layers_table(page, elu)
    page.prose(f"""same bits, worst, verdict: the convolution against the Linear layer when both get the same input;
        worst is again a fraction of the envelope. apart: the largest difference of the two networks, each on its own
        way up to this layer. of bound: that difference as a fraction of what correct sums can reach, which follows
        from layer to layer: D = E_linear + E_conv + |W| D_before, where E is how far the envelope reaches from the
        exact result. The activation multiplies D by its steepest slope, 1 for ELU and 1/4 for sigmoid, and adds its own
        error.

        {_networks_verdict(elu)}

        The last post changed two things, sigmoid for ELU and 0.001 for 1, and the difference went away. It went as far
        as the numbers did:""")
    _layers_table(page, sigmoid)
    page.prose(f"""The largest logit is {sigmoid.largest_logit:.4g} now and the largest difference
        {sigmoid.difference:.2g}, which is {sigmoid.difference / sigmoid.largest_logit:.1e} of it.
        {_networks_verdict(sigmoid)}

        Assumed in both: a computed ELU or sigmoid is at most {worked.ACTIVATION_ULPS} units of 2**-24 from the exact
        one. Measured here: {elu.activation_error:.2f} and {sigmoid.activation_error:.2f}.""")


def not_the_layer(page: Page) -> None:
    """Section 4."""
    example = worked.not_the_layer()
    found = example.found
    channels, positions = found.conv_output_shape[0], found.in_features
    page.heading("4. Where it is not true")
    page.prose("""Take the layer of section 1 and leave its input a map of 1 channel and 2x2 positions, (1, 2, 2). A 1x1
        convolution from 1 channel to 2 runs on it without complaint. It is another function, which the sizes already
        say:""")
    shapes = (str(found.feature_shape), str(found.conv_output_shape))
    rows = [
        (
            "fully connected",
            f"({found.in_features},)",
            f"({found.out_features},)",
            found.out_features,
            found.layer_weights,
        ),
        ("1x1 convolution", *shapes, channels * positions, found.conv_weights),
    ]
    page.table(("", "input", "output", "numbers", "weights"), [tuple(map(str, row)) for row in rows])
    page.prose(f"""Summing each output channel over its {positions} positions makes the sizes fit, and nothing else. For
        the input 1, 2, 3, 4 the closest 1x1 convolution, the one whose weights are the means of the layer's, gives
        {_numbers(example.conv_output.sum(1).tolist())} where the layer gives {_numbers(example.layer_output.tolist())}.

        The smallest input that tells them apart has a single 1, at x{list(found.witness_index or ())}. Output
        {list(found.output_index or ())} is {found.expected:.4f} from the layer and {found.actual:.4f} from the
        convolution. Why: {found.reason}.

        What the convolution really is: one layer of {found.feature_shape[0]} -> {channels} at each of {positions}
        positions. Written as a matrix over the flattened map that is the Kronecker product K (x) I_{positions},
        {found.dense_nonzeros} of {found.dense_entries} entries; a dot is a 0 that no choice of weights can change:""")
    if found.picture:
        page.verbatim("\n".join(found.picture.splitlines()[1:]), indent="  ")
    page.prose("""A layer over a flattened map with more than one position is a 1x1 convolution only if its own matrix
        has this pattern. If it has not, use a kernel as large as the map, as in section 1.""")


SECTIONS = (three_forms, equal_bits, two_networks, not_the_layer)


def _forms_table(page: Page, example: worked.Example) -> None:
    rows = [
        (
            form.form,
            *(str(tuple(tensor.shape)) for tensor in (form.weight, form.input, form.output)),
            _numbers(form.output.flatten().tolist()),
        )
        for form in example.forms
    ]
    page.table(("form", "weight", "input", "output", "values"), rows)


def _layers_table(page: Page, found: worked.Networks) -> None:
    rows = [
        (
            f"{step.in_features} -> {step.out_features}",
            f"{step.verdict.counts['identical'] / step.verdict.counts['total']:.1%}",
            *_judged(step),
            f"{step.difference:.2g}" if step.difference < 1 else f"{step.difference:,.0f}",
            _ratio(step.fraction),
        )
        for step in found.layers
    ]
    page.table(("layer", "same bits", "worst", "verdict", "apart", "of bound"), rows)


def _networks_verdict(found: worked.Networks) -> str:
    right = sum(step.verdict.equivalent for step in found.layers)
    last = found.layers[-1]
    if right == len(found.layers) and last.fraction <= 1:
        return f"""Verdict: rounding. All {right} convolutions lie inside the envelope on the same input, and the
            {found.outputs} logits differ by at most {_ratio(last.fraction)} of the bound ({last.bound:.2g} for the
            worst one). There is no mistake to find."""
    return f"""Verdict: not rounding alone. {len(found.layers) - right} of {len(found.layers)} convolutions leave the
        envelope, and the logits reach {_ratio(last.fraction)} of the bound."""


def _judged(found: worked.Width | worked.LayerStep) -> tuple[str, str]:
    return _ratio(found.verdict.max_ratio), found.verdict.outcome.name


def _refuses(width: worked.Width) -> str:
    return f"refuses {width.refused:,} of {width.outputs:,} outputs" if width.refused else "accepts all outputs"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}" if value < 100 else f"{value:,.0f}"


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
