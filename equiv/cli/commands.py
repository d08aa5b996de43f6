"""The commands and their options: what was typed is read and checked here, and carried out elsewhere.

Nothing heavier than typer is imported before a command runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import random
from typing import Annotated, Any

import typer

from equiv.cli.model_commands import check_kernel, convert, diagnose
from equiv.cli.options import LARGEST_SEED, MANY, WEIGHTS, Html, Json


def demo(
    section: Annotated[
        str | None, typer.Option("--section", metavar="1..4", help="Show one section instead of all, without a pause.")
    ] = None,
) -> None:
    """Show when a convolution is a fully connected layer, and when it is not, in four short sections."""
    from equiv.cli.demo import SECTIONS, show
    from equiv.parsing import parse_integer

    show(None if section is None else parse_integer("--section", section, least=1, most=len(SECTIONS)))


def verify(  # noqa: PLR0913 - each is an option of the command
    law: Annotated[
        list[str] | None, typer.Option("--law", metavar="IDS", help=f"See `equiv env`. All if not given. {MANY}")
    ] = None,
    form: Annotated[
        list[str] | None, typer.Option("--form", metavar="FORMS", help="linear, full, pointwise. All if not given.")
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option("--dtype", metavar="DTYPES", help="Such as float32,int8 or half. All if not given."),
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


def report(
    path: Annotated[str, typer.Argument(metavar="REPORT", help="The JSON of `equiv verify` or of pytest.")],
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="Written by their endings: .md, .xml (JUnit), .html, .json."),
    ] = None,
    annotate: Annotated[
        bool, typer.Option("--annotate", help="Mark the lines that break laws in a pull request of GitHub.")
    ] = False,
    backend: Annotated[
        str | None,
        typer.Option("--backend", metavar="FILE.py:OBJECT", help="Marked where a failure is of no line."),
    ] = None,
    programs: Annotated[
        str | None, typer.Option("--programs", metavar="FOLDER", help="Write a program for each broken law there.")
    ] = None,
) -> None:
    """Write a report in other formats: the summary of a job, JUnit, a page, programs that fail. Exit code 0 if written.

    A report of a run that was stopped is one too.
    """
    from equiv.cli.report import report as write

    write(path, files or (), annotate=annotate, backend=backend or "", programs=programs)


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


def counterexample(  # noqa: PLR0913 - each is an option of the command
    feature_map: Annotated[str, typer.Argument(metavar="MAP", help="Channels and 1 to 3 spatial sizes: 3x4x4.")],
    outputs: Annotated[
        str | None,
        typer.Option("--out", metavar="N", help="Outputs of the fully connected layer. 8 if not given."),
    ] = None,
    seed: Annotated[
        str | None,
        typer.Option(
            "--seed",
            metavar="N",
            help="The layer is the Linear that torch makes after manual_seed(N). 0 if not given.",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", metavar="NAME", help="Dtype of the layer, such as half. float32 if not given."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="FILE", help="A layer of your own:" + WEIGHTS)
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option("--layer", metavar="NAME", help="Which layer of FILE, such as fc, where several take such a map."),
    ] = None,
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
    from equiv.report import check_target

    shape = command.parse_shape("MAP", feature_map)
    drawn = {"--out": outputs, "--seed": seed, "--dtype": dtype}
    if weights is None:
        found = command.draw(shape, drawn, layer=layer)
    else:
        found = command.load(shape, drawn, weights=weights, layer=layer)
    how = None if readout is None else command.parse_readout("--readout", readout, shape, found.linear)
    if json is not None:
        check_target(json)
    command.show(found, shape, readout=how, json=json)


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


COMMANDS: dict[str, Any] = {
    command.__name__.replace("_", "-"): command
    for command in (
        demo,
        verify,
        report,
        check_kernel,
        backends,
        init_backend,
        diagnose,
        convert,
        counterexample,
        env,
    )
}
