"""`ranksr init`: the presets of configs/ travel in the package, and are written where their reader can change them."""

import pathlib

from ranksr import storage
from ranksr.config import files
from ranksr.errors import UserError

PACKAGE = pathlib.Path(__file__).resolve().parent


def folder() -> pathlib.Path:
    """Folder of the presets: in the installed package, or in the repository from which it is used."""
    packed = PACKAGE / "configs"
    return packed if packed.is_dir() else PACKAGE.parents[1] / "configs"


def names() -> list[str]:
    """Names for `--preset`."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def write(target: str, preset: str) -> list[pathlib.Path]:
    """Write a preset, what it has as `base:`, and the ablations into a folder; returns the files, the preset first.

    Raises UserError rather than overwrite a file that says something else.
    """
    if storage.is_remote(target):
        raise UserError(f"{target} is no local folder: a config is read from this machine; give a folder, e.g. configs")
    place = pathlib.Path(target).expanduser()
    sources = [*_with_bases(folder() / f"{preset}.yaml"), *sorted((folder() / "ablations").rglob("*.yaml"))]
    sources += sorted(folder().rglob("*.schema.json"))
    written = {place / source.relative_to(folder()): source.read_bytes() for source in sources}
    try:
        changed = [path for path, text in written.items() if path.exists() and path.read_bytes() != text]
        if changed:
            raise UserError(f"{changed[0]} is there already and is kept as it is: give another folder, or move it away")
        for path, text in written.items():
            if not path.exists():
                storage.write_bytes(str(path), text)
    except OSError as error:
        raise UserError(f"cannot write to {target}: {error.strerror}; give a folder that can be written") from error
    return list(written)


def _with_bases(path: pathlib.Path) -> list[pathlib.Path]:
    base = files.load_mapping(path).get("base")
    return [path, *(_with_bases(path.parent / base) if base else ())]
