"""Icons: find an unseen icon as another theme draws it. Real colour images, many classes, few of each.

    apt-get install adwaita-icon-theme elementary-xfce-icon-theme faenza-icon-theme gnome-icon-theme \
        lxde-icon-theme mate-icon-theme mint-y-icons moka-icon-theme obsidian-icon-theme \
        oxygen-icon-theme tango-icon-theme
    python -m experiments.icons --prepare
    python -m experiments.icons

An image is one theme's drawing of an icon on white, 64 pixels; a class is an icon's name.
"""

import shutil
import tempfile
from collections import defaultdict
from pathlib import Path

from absl import flags
from PIL import Image
from tqdm import tqdm

from experiments import command
from pddm_jax.system.cli import check_folder, given_path

THEMES = (
    *("Adwaita", "Faenza", "Mint-Y", "Moka", "Obsidian", "Tango", "elementary-xfce"),
    *("gnome", "mate", "menta", "nuoveXT2", "oxygen"),
)
SIZE = 64
LEAST_IMAGES = 3


def drawings(theme: Path) -> dict[str, Path]:
    """For each icon's name the file nearest above SIZE pixels, or else the largest; no symbolic links."""
    best: dict[str, tuple[tuple[bool, int, str], Path]] = {}
    for path in theme.rglob("*.png"):
        if path.is_symlink():
            continue
        with Image.open(path) as image:
            side = max(image.size)
        rank = side < SIZE, abs(side - SIZE), str(path)
        if path.stem not in best or rank < best[path.stem][0]:
            best[path.stem] = rank, path
    return {name: path for name, (_, path) in best.items()}


def on_white(path: Path) -> Image.Image:
    """The drawing on white, SIZE x SIZE pixels."""
    with Image.open(path) as image:
        drawn = image.convert("RGBA")
    white = Image.new("RGBA", drawn.size, "white")
    return Image.alpha_composite(white, drawn).convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def prepare(themes: Path, root: Path) -> int:
    """Write root/NAME/THEME.png, all of it or nothing; returns the number of classes.

    Of drawings that are the same to the pixel, under whatever names, one is kept; classes that then have
    fewer than LEAST_IMAGES are left out.

    Raises:
        FileNotFoundError: a theme is not installed.
        FileExistsError: root already exists.
    """
    missing = [name for name in THEMES if not (themes / name).is_dir()]
    if missing:
        raise FileNotFoundError(f"{themes} has no {', '.join(missing)}: see the packages in {__file__}")
    if root.exists():
        raise FileExistsError(f"{root} already exists: choose another data.root")
    classes: dict[str, dict[str, Image.Image]] = defaultdict(dict)
    seen: set[bytes] = set()
    for theme in tqdm(THEMES, unit="theme", disable=None):
        for name, path in sorted(drawings(themes / theme).items()):
            image = on_white(path)
            if image.tobytes() not in seen:
                seen.add(image.tobytes())
                classes[name][theme] = image
    kept = {name: images for name, images in classes.items() if len(images) >= LEAST_IMAGES}
    root.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}-"))
    try:
        for name, images in kept.items():
            (part / name).mkdir()
            for theme, image in images.items():
                image.save(part / name / f"{theme}.png")
        part.chmod(0o755)
        part.rename(root)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return len(kept)


def body() -> None:
    """Prepare, or train and evaluate."""
    if flags.FLAGS.prepare:
        if not flags.FLAGS.config.data.root:
            raise ValueError("data.root must be given: the folder to write the icons to")
        root = Path(flags.FLAGS.config.data.root).expanduser()
        check_folder("data.root", root.parent)
        print(f"{root}: {prepare(given_path('--themes', flags.FLAGS.themes), root)} classes")
    else:
        command.experiment("icons")


def define_flags() -> None:
    """The flags of this command alone."""
    flags.DEFINE_bool("prepare", False, "Make the images from the installed themes, then end.")
    flags.DEFINE_string("themes", "/usr/share/icons", "Where the themes are installed.")


if __name__ == "__main__":
    command.launch(command.Experiment(body, "icons", "runs/icons", define_flags))
