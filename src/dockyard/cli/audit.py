"""`dockyard audit`: who did what; the log as a file, the check that nobody altered it, and what checks it elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dockyard.cli.saving import save
from dockyard.cli.showing import cell, console, moment, state, table
from dockyard.cli.yards import ask, json_option, print_json
from dockyard.errors import AuditError
from dockyard.oci.files import store_errors
from dockyard.supply import audit_verifier
from dockyard.supply.audit_verifier import LINE_LIMIT, DoesNotHoldError, check, keys_in, said


@click.group()
def command() -> None:
    """Read, export and check the audit log; write the program that checks it elsewhere."""


@command.command("list")
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=30, help="The newest N.")
@click.option("--since", type=click.IntRange(0), help="Those from this number on, the oldest first.")
@json_option
def list_(limit: int, since: int | None, as_json: bool) -> None:
    """Show who changed what, and which calls were refused."""
    entries = ask(lambda yard: yard.audit(-limit if since is None else since, limit))
    if as_json:
        print_json(entries)
        return
    rows = table("number", "when", "who", "action", "target", "outcome", "why", right=("number",), fold=("why",))
    for each in entries:
        why = f"{each.why} (rule {each.rule})" if each.rule else each.why
        rows.add_row(
            str(each.number), moment(each.at), cell(each.who), cell(each.action), cell(each.target),
            state(each.outcome), cell(why),
        )  # fmt: skip
    console().print(rows)


@command.command("export")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def export(file: Path) -> None:
    """Write the whole log, with its signed checkpoint, to FILE (- is standard output)."""
    size = save(lambda yard: yard.export_audit(), file)
    if str(file) != "-":
        click.echo(f"{size:,} bytes in {file}; check it with `dockyard audit verify {file} --key audit.pub`", err=True)


@command.command("verify")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--key", type=click.Path(path_type=Path, dir_okay=False, exists=True), required=True,
    help="The yard's audit.pub, kept since it was set up.",
)  # fmt: skip
@click.option(
    "--checkpoint", "kept", type=click.Path(path_type=Path, dir_okay=False, exists=True), multiple=True,
    help="A checkpoint that was kept elsewhere: proves that nothing since was cut off.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(file: Path, key: Path, kept: tuple[Path, ...], as_json: bool) -> None:
    """Check an exported log, without any yard: that nothing in it was altered, removed, added or moved."""
    try:
        keys = keys_in(key.read_text(encoding="utf-8"))
        checkpoints = [one.read_text(encoding="utf-8") for one in kept]
        with file.open("rb") as log:
            report = check(iter(lambda: log.readline(LINE_LIMIT + 2), b""), keys, checkpoints)
    except UnicodeDecodeError as error:
        raise AuditError("a key or checkpoint is not text", remedy="Name the files that the yard wrote.") from error
    except DoesNotHoldError as error:
        raise AuditError(
            f"{file} does not hold: {error}", remedy="Keep the file as evidence, and compare it with a backup."
        ) from error
    told = {"origin": report.origin, "entries": report.entries, "root": report.root.hex(), "checkpoints": report.kept}
    click.echo(json.dumps(told, indent=2) if as_json else said(report))


@command.command("verifier")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def verifier(file: Path) -> None:
    """Write the stand-alone verifier to FILE (- is standard output): Python alone, for auditors without Dockyard."""
    program = Path(audit_verifier.__file__).read_bytes()
    if str(file) == "-":
        click.echo(program, nl=False)
        return
    with store_errors(file):
        file.write_bytes(program)
    click.echo(f"{file}; it needs Python and `cryptography`: `python3 {file.name} --help` says how to use it", err=True)
