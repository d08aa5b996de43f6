"""The commands and their options: what was typed is read and checked here, and carried out elsewhere.

Nothing heavier than typer is imported before a command runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import random
from typing import Annotated, Any

import typer

LARGEST_SEED = 2**32 - 1
_MANY = "May be repeated, or hold commas."

Json = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Also write everything to this file; - for stdout.")
]

Html = Annotated[
    str | None, typer.Option("--html", metavar="FILE", help="Also write a page of HTML to this file; - for stdout.")
]


def demo(
    section: Annotated[
        str | None, typer.Option("--section", metavar="1..4", help="Show one section instead of all.")
    ] = None,
) -> None:
    """Show when a convolution is a fully connected layer, and when it is not, in four short sections."""
    from equiv.cli.demo import SECTIONS, show
    from equiv.parsing import parse_integer

    show(None if section is None else parse_integer("--section", section, least=1, most=len(SECTIONS)))


def verify(  # noqa: PLR0913 - each is an option of the command
    law: Annotated[
        list[str] | None, typer.Option("--law", metavar="IDS", help=f"See `equiv env`. All if not given. {_MANY}")
    ] = None,
    form: Annotated[
        list[str] | None, typer.Option("--form", metavar="FORMS", help="linear, full, pointwise. All if not given.")
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option("--dtype", metavar="DTYPES", help="Such as float32,int8. All if not given.")
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option("--device", metavar="DEVICES", help="Such as cuda:0. cpu if not given.")
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            "--backend",
            metavar="NAME",
            help="One of `equiv backends`, with parameters such as 'onnxruntime?opset=18&level=all'; or your own, as "
            "MODULE:OBJECT or FILE.py:OBJECT. torch if not given.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="NAME",
            help="Run the same cases on this backend too, and explain every difference between the two.",
        ),
    ] = None,
    witnesses: Annotated[
        str | None,
        typer.Option(
            "--witnesses",
            metavar="FOLDER",
            help="With --against: where programs of what is wrong are kept. equiv-witnesses if not given.",
        ),
    ] = None,
    profile: Annotated[
        str,
        typer.Option("--profile", metavar="NAME", help="dev (quick), gate (fixed cases), deep (long)."),
    ] = "dev",
    examples: Annotated[
        str | None, typer.Option("--examples", metavar="N", help="Cases per law and dtype, instead of the profile's.")
    ] = None,
    arithmetic: Annotated[
        str,
        typer.Option(
            "--arithmetic",
            metavar="NAME",
            help="What error bounds follow: declared for dtype and device, or measured for every call (slow).",
        ),
    ] = "declared",
    seed: Annotated[
        str | None, typer.Option("--seed", metavar="N", help="Repeat the run with this seed. Random if not given.")
    ] = None,
    case: Annotated[
        str | None, typer.Option("--case", metavar="JSON", help="Try this case first, as a failure prints it.")
    ] = None,
    jobs: Annotated[str | None, typer.Option("--jobs", metavar="N", help="Processes; at most 2 if not given.")] = None,
    isolate: Annotated[
        bool,
        typer.Option("--isolate", help="Run in worker processes with limits: a crash or a hang costs one item."),
    ] = False,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="SECONDS", help="Of each isolated item. 600 if not given.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="GIB", help="Of each isolated item. 4 if not given.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="One row for each law, form and dtype.")] = False,
    json: Json = None,
    html: Html = None,
) -> int:
    """Try to break every law on every form and dtype. Exit code 1 if one is broken."""
    from equiv import parsing
    from equiv.backends import FORMS
    from equiv.cli import verify as command
    from equiv.cli.backends import load_backend
    from equiv.errors import EquivError
    from equiv.laws import LAWS, MODES, PROFILES, limits_of, read_case
    from equiv.report import Request, check_targets
    from equiv.strategies import devices_present
    from equiv.text import shown

    here = f"choose among {', '.join(map(str, devices_present()))}"
    name = parsing.parse_name("--profile", profile.removeprefix("equiv-"), PROFILES)
    drawn = 0 if PROFILES[name].derandomize else random.SystemRandom().randrange(LARGEST_SEED + 1)
    request = Request(
        devices=tuple(parsing.parse_devices("--device", device or ["cpu"], here)),
        laws=tuple(parsing.parse_names("--law", law, LAWS)) if law else None,
        forms=tuple(parsing.parse_names("--form", form, FORMS)) if form else None,
        dtypes=tuple(parsing.parse_dtypes("--dtype", dtype)) if dtype else None,
        profile=name,
        examples=None if examples is None else parsing.parse_integer("--examples", examples, least=1, most=10**6),
        seed=drawn if seed is None else parsing.parse_integer("--seed", seed, least=0, most=LARGEST_SEED),
        arithmetic=parsing.parse_name("--arithmetic", arithmetic, MODES),
        case=case,
    )
    if case is not None:
        read_case(case, argument="--case")
    processes = None if jobs is None else parsing.parse_integer("--jobs", jobs, least=1, most=64)
    limits = limits_of({"--timeout": timeout, "--memory": memory}, isolate=isolate, switch="--isolate")
    if backend and device:
        raise EquivError(f"--device: expected none with --backend, got {', '.join(device)}; a backend has its own")
    backends = {text: load_backend("--backend", text) for text in backend or ()}
    targets = {name: target for name, target in {"json": json, "html": html}.items() if target is not None}
    check_targets(targets)
    if against is not None:
        others = {"--jobs": jobs, "--html": html, "--case": case, "--isolate": isolate or None, "--full": full or None}
        return _against(request, backends, against, {**others, "--device": device}, witnesses, json)
    if witnesses is not None:
        raise EquivError(f"--witnesses: expected none without --against, got {shown(witnesses)}; leave it out")
    return command.verify(request, jobs=processes, full=full, targets=targets, limits=limits, backends=backends)


def _against(
    request: Any, backends: dict[str, Any], other: str, refused: dict[str, Any], folder: str | None, json: str | None
) -> int:
    """``verify`` on two backends."""
    from equiv.backends import TorchEager
    from equiv.cli import against as command
    from equiv.cli.backends import load_backend
    from equiv.errors import EquivError
    from equiv.text import shown

    given = next((name for name, value in refused.items() if value is not None), None)
    if given is not None:
        raise EquivError(f"{given}: cannot be given with --against; leave one of the two out")
    if len(backends) > 1:
        raise EquivError(f"--backend: expected one with --against, got {', '.join(backends)}; run it for each")
    both = {**(backends or {"eager": TorchEager()}), other: load_backend("--against", other)}
    if len(both) < 2:
        raise EquivError(f"--against: expected another backend than --backend, got {shown(other)} twice; name another")
    return command.against(request, both, folder=folder or command.FOLDER, json=json)


def counterexample(
    feature_map: Annotated[str, typer.Argument(metavar="MAP", help="Channels and 1 to 3 spatial sizes: 3x4x4.")],
    outputs: Annotated[str, typer.Option("--out", metavar="N", help="Outputs of the fully connected layer.")] = "8",
    seed: Annotated[str, typer.Option("--seed", metavar="N", help="Seed of the layer's weights.")] = "0",
    dtype: Annotated[str, typer.Option("--dtype", metavar="NAME", help="Dtype of the layer.")] = "float32",
    readout: Annotated[
        str | None,
        typer.Option(
            "--readout", metavar="HOW", help="How the convolution's map is read: positions (flattened), sum or mean."
        ),
    ] = None,
    json: Json = None,
) -> None:
    """Show the smallest input that tells a flattened layer from a 1x1 convolution, and what the latter really is."""
    from equiv.cli import counterexample as command
    from equiv.dtypes import BY_NAME
    from equiv.parsing import parse_integer, parse_name
    from equiv.report import check_target

    shape = command.parse_shape("MAP", feature_map)
    out = parse_integer("--out", outputs, least=1, most=2**24)
    drawn = parse_integer("--seed", seed, least=0, most=LARGEST_SEED)
    chosen = BY_NAME[parse_name("--dtype", dtype.replace("torch.", ""), BY_NAME)]
    how = None if readout is None else command.parse_readout("--readout", readout, shape, out, chosen)
    command.check_size("MAP", feature_map, shape, out)
    if json is not None:
        check_target(json)
    command.show(shape, out, dtype=chosen, seed=drawn, readout=how, json=json)


def env(
    json: Json = None,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Also measure which precision each form computes in: 5 to 15 s."),
    ] = False,
) -> None:
    """Show versions, settings, devices, dtypes with their declared arithmetic, laws and profiles."""
    from equiv.cli.env import show
    from equiv.report import check_target

    if json is not None:
        check_target(json)
    show(measure=measure, json=json)


def backends(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Those alone, such as numpy or 'openvino?precision=bfloat16'."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Names and versions alone: nothing is run.")] = False,
    json: Json = None,
) -> None:
    """List the backends that have a name: installed or not, version, what each serves, and what it computes in."""
    from equiv.cli.runtimes import show
    from equiv.report import check_target

    if json is not None:
        check_target(json)
    show(names or (), quick=quick, json=json)


def init_backend(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the backend, such as mykernels.")],
    folder: Annotated[str, typer.Option("--folder", metavar="FOLDER", help="Where the files are written.")] = ".",
) -> None:
    """Write a backend of your own that works, its test, and a workflow that runs it: to be filled in."""
    from equiv.cli.skeleton import write

    write(name, folder)


Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="SHAPE",
        help="16x5x256: normal values. 16x5x256:float16. 2x16:int64:1000: integers below 1000 (10 if not given). "
        "Or a .pt, .safetensors or .npy file of tensors. Once for each input.",
    ),
]
Seed = Annotated[
    str, typer.Option("--seed", metavar="N", help="Of drawn inputs and of the weights that code of models draws.")
]
Dtype = Annotated[
    str | None, typer.Option("--dtype", metavar="NAME", help="Of models and drawn inputs. That of models if not given.")
]
Device = Annotated[str, typer.Option("--device", metavar="DEVICE", help="Where models run.")]
Evaluation = Annotated[
    bool | None,
    typer.Option(
        "--eval/--no-eval",
        help="Evaluation mode, or as the code leaves it. If not given: evaluation for what is called here.",
        show_default=False,
    ),
]
_MODEL = (
    "path.py:object or package.module:object: a module, a function of tensors, or what makes one when it is called "
    "without arguments, as a class or a function whose arguments all have defaults."
)
_ONNX = " Or a file.onnx."
_WEIGHTS = " A .safetensors or .pt file of a state_dict; nothing in it is run."


def _setting(input: list[str] | None, seed: str, dtype: str | None, device: str, evaluate: bool | None) -> Any:
    """What was typed for models and inputs, checked."""
    from equiv.arguments import check_device
    from equiv.cli.diagnose import Setting
    from equiv.cli.inputs import parse_input
    from equiv.dtypes import BY_NAME, is_inexact
    from equiv.errors import EquivError
    from equiv.parsing import parse_integer, parse_name

    if not input:
        raise EquivError("--input: expected an input of the models, got none; name a shape such as 16x5x256")
    floats = [name for name, one in BY_NAME.items() if is_inexact(one)]
    return Setting(
        inputs=tuple(parse_input("--input", text) for text in input),
        seed=parse_integer("--seed", seed, least=0, most=LARGEST_SEED),
        dtype=None if dtype is None else BY_NAME[parse_name("--dtype", dtype.replace("torch.", ""), floats)],
        device=check_device("--device", device),
        evaluate=evaluate,
    )


def diagnose(  # noqa: PLR0913 - each is an option of the command
    new: Annotated[str, typer.Argument(metavar="NEW", help=_MODEL + _ONNX)],
    old: Annotated[str, typer.Argument(metavar="OLD", help="The model that is right, named in the same way.")],
    input: Inputs = None,
    weights_new: Annotated[
        str | None, typer.Option("--weights-new", metavar="FILE", help="Weights of NEW." + _WEIGHTS)
    ] = None,
    weights_old: Annotated[str | None, typer.Option("--weights-old", metavar="FILE", help="Weights of OLD.")] = None,
    match: Annotated[
        list[str] | None,
        typer.Option("--match", metavar="NEW=OLD", help="Names of two modules that stand for each other. Repeatable."),
    ] = None,
    seed: Seed = "0",
    dtype: Dtype = None,
    device: Device = "cpu",
    evaluate: Evaluation = None,
    json: Json = None,
    html: Html = None,
) -> int:
    """Say whether two models compute the same, and where they first part. Exit code 1 unless they do.

    Their code runs, because you name it.
    """
    from equiv.cli import diagnose as command
    from equiv.report import check_targets

    setting = _setting(input, seed, dtype, device, evaluate)
    pairs = command.parse_match("--match", match or ())
    targets = {name: target for name, target in {"json": json, "html": html}.items() if target is not None}
    check_targets(targets)
    return command.diagnose(new, old, setting, weights=(weights_new, weights_old), match=pairs, targets=targets)


def convert(  # noqa: PLR0913 - each is an option of the command
    model: Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL)],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="WHAT",
            help="pointwise: every Linear a 1x1 convolution. linear: the way back. dense: a classifier as one that "
            "takes larger maps.",
        ),
    ],
    input: Inputs = None,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="FILE", help="Write the state_dict here: .safetensors, .pt, .pth or .bin."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="FILE", help="Weights of MODEL." + _WEIGHTS)
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="For pointwise: this layer, or a pattern such as blocks.*.fc1."),
    ] = None,
    seed: Seed = "0",
    dtype: Dtype = None,
    device: Device = "cpu",
    evaluate: Evaluation = None,
    json: Json = None,
) -> int:
    """Convert the layers of a model, check that it computes the same, and write its weights. Exit code 1 if not.

    The code of the model runs, because you name it.
    """
    from equiv.cli import convert as command
    from equiv.cli.files import check_output
    from equiv.parsing import parse_name
    from equiv.report import check_target

    setting = _setting(input, seed, dtype, device, evaluate)
    target = parse_name("--to", to, command.TARGETS)
    if out is not None:
        check_output("--out", out)
        check_target(out, option="--out")
    if json is not None:
        check_target(json)
    return command.convert(model, target, setting, weights=weights, only=only or (), out=out, json=json)


COMMANDS: dict[str, Any] = {
    command.__name__.replace("_", "-"): command
    for command in (demo, verify, backends, init_backend, diagnose, convert, counterexample, env)
}
