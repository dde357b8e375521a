"""`evercache render`: deployment files for every host, from one description."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from evercache.errors import FilesChanged, PackageMissing
from evercache.ops import deploy

__all__ = ["render"]


@click.command(short_help="Write the files for every host of a deployment.")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--for", "variant", type=click.Choice(deploy.VARIANTS), help="What keeps the servers running.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder for the files.  [default: rendered, beside FILE]",
)
@click.option("--diff", "only_diff", is_flag=True, help="Show what would change, and write nothing.")
@click.option("--check", "only_check", is_flag=True, help="Write nothing; exit code 1 if something would change.")
@click.option("--generate-passwords", is_flag=True, help="Make passwords whose files are missing.")
@click.option("--test-certificates", is_flag=True, help="Make certificates, with an authority of their own.")
@click.option("--replace-edited", is_flag=True, help="Drop what was changed by hand since the last rendering.")
@click.option("--example", is_flag=True, help="Print a description to begin with.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of descriptions, for editors.")
def render(
    file: Path | None,
    variant: str | None,
    out: Path | None,
    only_diff: bool,
    only_check: bool,
    generate_passwords: bool,
    test_certificates: bool,
    replace_edited: bool,
    example: bool,
    schema: bool,
) -> int:
    """Write the files for every host of a deployment, from one description (TOML).

    \b
      evercache render --example > cache.toml
      evercache render cache.toml --for systemd --generate-passwords

    It refuses what cannot work, with the reason and the fix. What servers and sentinels rewrite is never touched.
    """
    if example or schema:
        click.echo(deploy.example_text() if example else deploy.schema_text(), nl=False)
        return 0
    if file is None or variant is None:
        raise click.UsageError("give the description and --for, or --example for one to begin with")
    description = deploy.parse_file(file)
    deploy.check(description, variant)
    if generate_passwords and not (only_diff or only_check):
        for path in deploy.generate_passwords(description, file.parent):
            click.echo(f"made {path}", err=True)
    passwords = deploy.read_passwords(description, file.parent)
    folder = out if out is not None else file.parent / "rendered"
    further = deploy.read_further_passwords(description, file.parent)
    files = deploy.render(description, passwords, variant, further)
    found = deploy.changes(folder, files)
    different = [one for one in found if one.state != "same"]
    if only_check or only_diff:
        if only_diff:
            _show(found, passwords)
        for one in different if only_check else ():
            click.echo(f"{one.state}: {one.path}")
        return 1 if different and only_check else 0
    try:
        deploy.write(folder, files, over_edits=replace_edited)
    except FilesChanged:
        _show([one for one in found if one.state in {"edited", "rewritten"}], passwords)
        raise
    _show([one for one in found if one.state != "new"], passwords)
    if test_certificates:
        _certificates(description, folder)
    _summary(description, folder, variant, different)
    return 0


def _show(found: list[deploy.Change], passwords: dict[str, str]) -> None:
    styles = {"+": "green", "-": "red", "@": "cyan"}
    console = Console(highlight=False, soft_wrap=True)
    for line in deploy.diff(found, passwords.values()):
        style = "bold" if line.startswith(("--- ", "+++ ")) else styles.get(line[:1], "")
        console.print(line, style=style, markup=False)


def _certificates(description: deploy.Description, folder: Path) -> None:
    try:
        from evercache.ops.deploy.certificates import make_certificates
    except ModuleNotFoundError as error:
        raise PackageMissing(f"certificates need {error.name}: run  pip install 'evercache[deploy]'") from error
    made = make_certificates(description, folder)
    click.echo(
        f"{len(made)} files of certificates, for tests only" if made else "the certificates are good", err=True
    )


def _summary(description: deploy.Description, folder: Path, variant: str, different: list[deploy.Change]) -> None:
    new = sum(one.state == "new" for one in different)
    gone = sum(one.state == "gone" for one in different)
    words = [
        f"{count} {word}"
        for count, word in ((new, "new"), (len(different) - new - gone, "changed"), (gone, "removed"))
    ]
    told = ", ".join(one for one in words if not one.startswith("0 ")) or "nothing has changed"
    click.echo(f"{folder}: {told}", err=True)
    for note in deploy.notes(description):
        click.echo(f"note: {note}", err=True)
    for host in description.hosts:
        click.echo(f"next: {folder / host.name / 'README.md'}", err=True)
