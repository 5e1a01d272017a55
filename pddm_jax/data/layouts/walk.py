"""Files in folders: images by extension, links that lead back, files that are listed twice."""

import os
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path, PurePath

from pddm_jax.data.layouts.base import EXTENSIONS, summarize

IGNORED = (".", "__MACOSX")  # hidden, or added to archives by macOS


def folders_in(base: Path) -> list[Path]:
    """The folders in a folder, and links to folders, sorted by name, without hidden ones."""
    if not base.is_dir():
        return []
    with os.scandir(base) as found:
        names = [x.name for x in found if not x.name.startswith(IGNORED) and _is_folder(x)]
    return [base / name for name in sorted(names)]


def entries_in(folder: str | Path, without: Container[str] = ()) -> Iterator[os.DirEntry[str]]:
    """All entries below a folder, at any depth, that are not folders: sorted, without hidden ones.

    Links to folders are not followed.

    Args:
        folder: where to look.
        without: paths of folders to leave out.

    Raises:
        OSError: a folder cannot be listed.
    """
    with os.scandir(folder) as found:
        entries = sorted((x for x in found if not x.name.startswith(".")), key=lambda x: x.name)
    folders = []
    for entry in entries:
        if not _is_folder(entry):
            yield entry
        elif not entry.is_symlink() and entry.path not in without:
            folders.append(entry.path)
    for inner in folders:
        yield from entries_in(inner, without)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links: reading it names it
        return False


def is_image(name: str) -> bool:
    """Whether a file has the extension of an image."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS  # noqa: PTH122


def once(base: Path, folders: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """The folders without links to another of them or to a folder around them, and a note on each link.

    Args:
        base: the folder that holds all of them.
        folders: folders and links to folders.
    """
    folders = [*folders]
    if not any(folder.is_symlink() for folder in folders):
        return folders, []
    root = base.resolve()
    targets = {folder: folder.resolve() for folder in folders}
    seen = {target: folder for folder, target in targets.items() if not folder.is_symlink()}
    kept, notes = [], []
    for folder, target in targets.items():
        if not folder.is_symlink():
            kept.append(folder)
        elif root.is_relative_to(target) or target in seen:
            other = seen.get(target, "a folder that contains it")
            notes.append(f"{folder} is a link to {other}: left out, so that no image counts twice")
        else:
            seen[target] = folder
            kept.append(folder)
    return kept, notes


def extensions(names: Iterable[str]) -> Counter[str]:
    """The number of files by extension, of files that are not images."""
    return Counter(PurePath(name).suffix or "no extension" for name in names if not is_image(name))


def other_extensions(found: Counter[str]) -> str | None:
    """A note on files that are not images by their extension; None if there are none."""
    if not found:
        return None
    each = summarize([f"{extension} ({count})" for extension, count in found.most_common()], 8)
    return (
        f"files that are not images by their extension are left out: {each}; "
        f"read are {', '.join(sorted(EXTENSIONS))}"
    )


def same_files(entries: Sequence[os.DirEntry[str]]) -> str | None:
    """A note on entries that are links to the file of another entry; None if there are none."""
    by_number: dict[int, list[str]] = {}
    for entry in entries:
        try:
            number = entry.stat().st_ino if entry.is_symlink() else entry.inode()
        except OSError:
            continue  # a dangling link: reading it names it
        by_number.setdefault(number, []).append(entry.path)
    groups = [paths for paths in by_number.values() if len(paths) > 1]
    groups = [paths for paths in groups if len({_identity(path) for path in paths}) < len(paths)]
    if not groups:
        return None
    count = sum(map(len, groups)) - len(groups)
    return (
        f"{count} images are links to the files of other images and count as images too, for example "
        f"{groups[0][0]} and {groups[0][1]}"
    )


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)  # noqa: PTH116
    return found.st_dev, found.st_ino
