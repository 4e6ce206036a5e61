"""Sort ImageNet's validation images into one folder per class, by the labels of the official development kit.

FOLDER has the images of ILSVRC2012_img_val.tar. DEVKIT is the archive ILSVRC2012_devkit_t12.tar.gz. Images that are in
a folder of a class already stay there, so that an interrupted command can be typed again. Needs SciPy.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from robharness import UserError, for_shell


def validation_wnids(devkit: Path) -> list[str]:
    """Return the WordNet id of each validation image, in the order of their numbers from 1.

    Raises UserError if the archive is not the published one, whose MD5 is checked, or without SciPy.
    """
    from torchvision.datasets import imagenet

    try:
        with tempfile.TemporaryDirectory() as folder:
            imagenet.parse_devkit_archive(folder, str(devkit.absolute()))
            wnids: list[str] = imagenet.load_meta_file(folder)[1]
    except ImportError:
        raise UserError("SciPy, which reads the development kit, is not installed. Try: pip install scipy") from None
    except RuntimeError:
        raise UserError(
            f"{devkit} is absent, or not the published ILSVRC2012_devkit_t12.tar.gz. Try: ls -l {for_shell(devkit)}"
        ) from None
    return wnids


def sort_validation(folder: Path, devkit: Path) -> int:
    """Move the images that lie in a folder itself into folders of their classes.

    folder: of images named ILSVRC2012_val_00000001.JPEG to ILSVRC2012_val_00050000.JPEG, or some of them.
    devkit: see `validation_wnids`.
    Returns the number of images that were moved.
    """
    wnids = validation_wnids(devkit)
    by_name = {f"ILSVRC2012_val_{number:08}.JPEG": wnid for number, wnid in enumerate(wnids, 1)}
    found = [path for path in folder.iterdir() if path.name in by_name]
    for path in found:
        place = folder / by_name[path.name]
        place.mkdir(exist_ok=True)
        path.rename(place / path.name)
    return len(found)


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("devkit", type=click.Path(path_type=Path))
def main(folder: Path, devkit: Path) -> None:
    try:
        count = sort_validation(folder, devkit)
    except UserError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        reason = f"{error.filename} cannot be moved or written: {error.strerror}. Try: ls -ld {for_shell(folder)}"
        raise click.ClickException(reason) from None
    click.echo(f"sorted {count:,} images")


if __name__ == "__main__":
    main()
