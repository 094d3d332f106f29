"""`dah checkpoint`: what a downloader needs. All but `evaluate` keep off our model code: a checkpoint stands on its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffusion_at_home.cli.output import emit

if TYPE_CHECKING:
    from diffusion_at_home.checkpoint.signature import Vouched

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Download, verify and use what a run has made.")

Url = Annotated[
    str, typer.Argument(metavar="URL", help="The run's address, for example https://host:8400/#FINGERPRINT")
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A downloaded checkpoint.")]
ReleaseKey = Annotated[
    str,
    typer.Option(
        "--key", metavar="HEX", help="The run's release key, from where you trust it: it or its heir must have signed."
    ),
]
Required = Annotated[bool, typer.Option("--require-signature", help="Refuse what is not signed.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on the last line.")]


@app.command("list")
def list_(url: Url, as_json: Json = False) -> None:
    """What the run at URL has published."""
    from diffusion_at_home.checkpoint.download import list_checkpoints

    listing = list_checkpoints(url)
    if as_json:
        emit(listing.model_dump(mode="json"), as_json)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=listing.run, box=None)
    for column in ("name", "images", "held-out loss", "retrieval", "MB", ""):  # --json has the rest
        table.add_column(column, no_wrap=True)
    for c in listing.checkpoints:
        marks = [word for word, name in (("latest", listing.latest), ("best", listing.best)) if name == c.name]
        marks += ["signed"] if c.signed else []
        loss = "-" if c.held_out_loss is None else f"{c.held_out_loss:.4f} ({c.default_weights})"
        retrieval = "-" if c.judged is None or c.judged.retrieval is None else f"{c.judged.retrieval:.3g}"
        table.add_row(c.name, f"{c.images:,}", loss, retrieval, f"{c.size_bytes / 1e6:.1f}", " ".join(marks))
    Console().print(table if listing.checkpoints else f"{listing.run} has no checkpoint yet")


@app.command()
def download(
    url: Url,
    which: Annotated[str, typer.Option(help="latest, best, or a name from `dah checkpoint list`.")] = "latest",
    out: Annotated[Path, typer.Option(help="Folder to put it in; a broken-off download goes on.")] = Path("checkpoint"),
    key: ReleaseKey = "",
    require_signature: Required = False,
    as_json: Json = False,
) -> None:
    """Download a checkpoint from URL and verify every file, and its signature if it has one."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    from diffusion_at_home.checkpoint import download as downloader
    from diffusion_at_home.signing_key import parse_public_key

    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("download", total=None)
        done = downloader.download(
            url,
            which,
            out,
            lambda have, total: bar.update(task, completed=have, total=total),
            downloader.Demand(parse_public_key(key, "--key"), require_signature),
        )
    emit(
        {
            "name": done.manifest.name,
            "folder": str(out),
            "files": len(done.manifest.files),
            "bytes": done.manifest.size_bytes,
            "signed_by": done.vouched.public_key if done.vouched else None,
            "key_from": _key_from(done.vouched, key),
        },
        as_json,
    )


@app.command()
def verify(
    folder: Folder,
    key: ReleaseKey = "",
    rotations: Annotated[
        Path | None, typer.Option(help="The run's rotations.json, to know which of its keys are old.")
    ] = None,
    require_signature: Required = False,
    as_json: Json = False,
) -> None:
    """Check every file in DIR against its manifest and, with --key, whose word that is; says what this proves, and what not."""
    from diffusion_at_home.checkpoint.proof import prove
    from diffusion_at_home.checkpoint.rotation import load_rotations
    from diffusion_at_home.checkpoint.signature import Trust
    from diffusion_at_home.signing_key import parse_public_key

    root = parse_public_key(key, "--key")
    known = load_rotations(rotations) if rotations else ()
    proof = prove(folder, Trust(root, known, required=require_signature or bool(root)))
    manifest, vouched = proof.manifest, proof.vouched
    found = {
        "name": manifest.name,
        "verified": True,
        "run_id": manifest.run_id,
        "files": len(manifest.files),
        "images": manifest.images,
        "version": manifest.version,
        "weights": manifest.default_weights,
        "data": manifest.data.name,
        "license": manifest.license,
        "signed_by": vouched.public_key if vouched else None,
        "key_from": _key_from(vouched, key),
    }
    if as_json:
        emit({**found, "proves": proof.proves, "does_not_prove": proof.does_not_prove}, as_json)
        return
    emit(found, as_json)
    for title, sentences in (("This proves:", proof.proves), ("This does not prove:", proof.does_not_prove)):
        typer.echo("\n".join((f"\n{title}", *(f"- {sentence}" for sentence in sentences))))


@app.command()
def rounds(
    folder: Folder,
    what: Annotated[
        str,
        typer.Argument(metavar="WHAT", help="A file, such as a run's update, or the digest of weights or an update."),
    ],
    as_json: Json = False,
) -> None:
    """Whether WHAT is one of the updates or versions from which the checkpoint in DIR comes. Its files are verified first."""
    from diffusion_at_home.checkpoint.rounds import look_up
    from diffusion_at_home.checkpoint.verify import verify as verified

    manifest = verified(folder)
    found = look_up(folder, manifest, what)
    emit({"run_id": manifest.run_id, "version": found.version, "what": found.what, "digest": found.digest}, as_json)


@app.command()
def sign(
    place: Annotated[Path, typer.Argument(metavar="DIR_OR_MANIFEST", help="A checkpoint, or its manifest.json alone.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The release key's file.")],
    as_json: Json = False,
) -> None:
    """Write signature.json beside the manifest. In DIR every file is verified first; of a manifest alone nothing is."""
    from diffusion_at_home.checkpoint.release_key import ReleaseKey as Key
    from diffusion_at_home.checkpoint.release_key import sign_checkpoint

    loaded = Key.load(key)
    signed = sign_checkpoint(place, loaded)
    emit(
        {
            "name": signed.manifest.name,
            "run_id": signed.manifest.run_id,
            "version": signed.manifest.version,
            "files_checked": signed.files_checked,
            "public_key": loaded.public_key,
            "signature": str(signed.signature),
        },
        as_json,
    )


key_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Make and rotate the key that signs checkpoints."
)
app.add_typer(key_app, name="key")


@key_app.command("new")
def key_new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file, never on the coordinator's machine.")],
    as_json: Json = False,
) -> None:
    """Make a release key. The run names its public half: release.public_key of its config."""
    from diffusion_at_home.checkpoint.release_key import ReleaseKey as Key

    emit({"public_key": Key.create(file).public_key, "file": str(file)}, as_json)


@key_app.command("rotate")
def key_rotate(
    old: Annotated[
        Path, typer.Argument(metavar="OLD", help="The key that signs now; it signs nothing more afterwards.")
    ],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="A new file for its successor.")],
    as_json: Json = False,
) -> None:
    """Make the key that follows OLD.

    NEW.rotations.json says so, signed by OLD. Copy that to RUN_DIR/rotations.json on the coordinator, and sign with the new key
    what is to stay on offer.
    """
    from diffusion_at_home.checkpoint.release_key import ReleaseKey as Key
    from diffusion_at_home.checkpoint.rotation import ROTATIONS_SUFFIX

    made = Key.load(old).rotate(old, new)
    emit(
        {
            "public_key": made.public_key,
            "file": str(new),
            "rotations": f"{new}{ROTATIONS_SUFFIX}",
            "steps": len(made.chain),
        },
        as_json,
    )


def _key_from(vouched: Vouched | None, key: str) -> str | None:
    """From where it is known that the key which has signed is the run's; None if it is not known."""
    if vouched is None or not vouched.trusted:
        return None
    return "--key" if key else "the run's address"


@app.command()
def push(
    folder: Folder,
    repo: Annotated[str, typer.Argument(metavar="REPO_ID", help="Repository on the hub, as in OWNER/NAME.")],
    private: Annotated[bool, typer.Option("--private", help="Make it a repository that only you see.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to put it on instead of the main one.")] = None,
    as_json: Json = False,
) -> None:
    """Upload the checkpoint in DIR to a Hugging Face repository. It is verified first; broken off, it goes on.

    REPO_ID then holds this checkpoint and nothing else. Log in before, by `hf auth login`, or set HF_TOKEN.
    """
    import sys

    from diffusion_at_home.checkpoint.push import Target, without_bars
    from diffusion_at_home.checkpoint.push import push as upload

    if not sys.stderr.isatty():
        without_bars()
    done = upload(folder, Target(repo, private, revision))
    emit(
        {
            "name": done.manifest.name,
            "url": done.url,
            "revision": revision,
            "commit": done.commit,
            "files": len(done.files),
            "bytes": done.manifest.size_bytes,
        },
        as_json,
    )


@app.command()
def sample(
    folder: Folder,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw.")],
    out: Annotated[Path, typer.Option(help="The picture, a PNG.")] = Path("sample.png"),
    seed: Annotated[int, typer.Option(help="The same seed gives the same picture.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Denoising steps instead of the run's.")] = None,
    guidance: Annotated[float | None, typer.Option(min=1.0, help="Guidance instead of the run's.")] = None,
    variant: Annotated[str | None, typer.Option(help="raw or ema; the default weights if left out.")] = None,
    as_json: Json = False,
) -> None:
    """Draw PROMPT with the checkpoint in DIR. It is verified first, and drawn with by stock diffusers."""
    from diffusion_at_home.checkpoint.draw import draw

    size = draw(folder, prompt, out, seed=seed, steps=steps, guidance=guidance, variant=variant)
    emit({"picture": str(out), "width": size[0], "height": size[1]}, as_json)


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A downloaded checkpoint.")],
    data: Annotated[Path, typer.Option(help="Data set that its pictures are compared with.")],
    encoder: Annotated[
        Path | None,
        typer.Option(help="Folder of a vision model to compare by; a small one is trained on DATA if left out."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for sheets, history and animation.")] = Path("evaluation"),
    variant: Annotated[str | None, typer.Option(help="raw or ema; the default weights if left out.")] = None,
    pictures: Annotated[int, typer.Option(min=10, max=100_000, help="Pictures to draw of trained captions.")] = 100,
    real: Annotated[int, typer.Option(min=100, max=100_000, help="Most real pictures to compare with.")] = 2048,
    candidates: Annotated[int, typer.Option(min=2, max=100_000, help="Real pictures to choose among.")] = 100,
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Denoising steps instead of the run's.")] = None,
    guidance: Annotated[float | None, typer.Option(min=1.0, help="Guidance instead of the run's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of captions and noise: the same one asks the same.")] = 0,
    as_json: Json = False,
) -> None:
    """Draw with CHECKPOINT and judge the pictures by the real ones of a data set. It is verified first."""
    from rich.console import Console
    from rich.progress import Progress

    from diffusion_at_home.checkpoint.manifest import weights_named

    weights = weights_named(variant)
    from diffusion_at_home.evaluation.evaluate import EvaluationPlan, evaluate

    plan = EvaluationPlan(
        checkpoint=folder,
        data=data,
        out=out,
        encoder=encoder,
        weights=weights,
        pictures=pictures,
        real=real,
        candidates=candidates,
        steps=steps,
        guidance=guidance,
        seed=seed,
    )
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        result = evaluate(plan, tell)
    if as_json:
        emit({**result.to_json(), "out": str(out)}, as_json)
        return
    from rich.table import Table

    table = Table(
        "", "drawn", "floor", "ceiling", title=f"{result.checkpoint} ({result.weights}), {result.images:,} images"
    )
    for name, *figures in result.rows():
        table.add_row(name, *("-" if figure is None else f"{figure:.4g}" for figure in figures))
    Console().print(table)
    emit({"encoder": result.encoder, "encoder_sha256": result.encoder_sha256, "out": str(out)}, as_json)


@app.command()
def audit(
    url: Url,
    round_: Annotated[int | None, typer.Option("--round", min=1, help="Every contribution of this round.")] = None,
    lease: Annotated[int | None, typer.Option(min=1, help="The contribution of this lease.")] = None,
    sample: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="So many at random of all closed rounds; 5 if nothing is named."),
    ] = None,
    device: Annotated[str, typer.Option(help="What computes: auto, cpu or cuda.")] = "auto",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one of the worker's settings; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train leases of the run at URL again from what it publishes, and compare with what its workers handed in.

    Nothing is joined. Exit code 13: something is not what its lease gives.
    """
    if sum(choice is not None for choice in (round_, lease, sample)) > 1:
        raise typer.BadParameter("name one of --round, --lease and --sample")
    from worker.settings import load_settings

    settings = load_settings(None, [f"device={device!r}", *(overrides or ())])

    from collections import Counter

    from rich.console import Console

    from diffusion_at_home import __version__
    from diffusion_at_home.cli.output import one_line
    from diffusion_at_home.errors import Disagreement
    from worker.auditor.audit import Choice, audit_run
    from worker.auditor.finding import Outcome

    console = Console(stderr=as_json, soft_wrap=True, markup=False, highlight=False)
    done = audit_run(
        url, Choice(round_, lease, sample or 5), settings, lambda found: console.print(one_line(f"{found}"))
    )
    counts = Counter(found.outcome for found in done.findings)
    result = {outcome.name.lower(): counts[outcome] for outcome in Outcome}
    findings = {"findings": [found.plain() for found in done.findings]} if as_json else {}
    software = {"software": __version__, "run_software": done.run_software}
    emit({"run": done.run_id, **software, **result, **findings}, as_json)
    if counts[Outcome.DISAGREES]:
        what = f"{counts[Outcome.DISAGREES]} of {len(done.findings)} contributions are not what their leases give"
        if done.run_software != __version__:
            raise Disagreement(f"{what}, by version {__version__} of this software: try the run's {done.run_software}")
        raise Disagreement(f"{what}: tell the operator of the run, or leave it")
