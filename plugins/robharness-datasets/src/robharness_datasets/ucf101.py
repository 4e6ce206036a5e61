"""UCF101 (Soomro et al., 2012) as published: 13,320 videos in a folder for each action, three official splits.

Classes are counted from 0, in the order of the official classInd.txt, which counts from 1 and is alphabetical without
regard to case; in the order of bytes "HammerThrow" and "JumpRope" would change places with their neighbours.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from robharness import DatasetSpec, MissingResource, UserError
from robharness_datasets.imagenet import SUBSET
from robharness_datasets.videos import VideoFile, need_decoder

CLASSES = 101
COUNTS = {"test1": 3783, "test2": 3734, "test3": 3696, "train1": 9537, "train2": 9586, "train3": 9624}
"""Videos of each official split."""
URL = "https://www.crcv.ucf.edu/data/UCF101"


class Ucf101:
    """One split; ids such as "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", in the official list's order.

    folder: of the actions' folders. examples: (id, label) each.
    """

    def __init__(self, folder: Path, examples: Sequence[tuple[str, int]]) -> None:
        self._folder = folder
        self.ids: Sequence[str] = [id for id, _ in examples]
        self.labels: Sequence[int] = [label for _, label in examples]

    def read(self, index: int) -> VideoFile:
        """A video of its own for each call, so that threads share nothing. Raises Unreadable for a broken one."""
        return VideoFile(self._folder / self.ids[index])


def open_ucf101(root: Path, split: str) -> Ucf101:
    """The split "test1", ..., "train3" of `<root>/ucf101/`: `UCF-101/<action>/*.avi`, `ucfTrainTestlist/*.txt`.

    Raises MissingResource where lists or videos are missing, unless a file SUBSET in `<root>/ucf101/` says that this is on
    purpose: then the listed videos that are there count. Raises UserError where a list is not the official one.
    """
    need_decoder("robharness-datasets[video]")
    folder, is_part = root / "ucf101", (root / "ucf101" / SUBSET).exists()
    lists, videos = folder / "ucfTrainTestlist", folder / "UCF-101"
    numbers = _numbers(lists / "classInd.txt", folder)
    list_of_split = lists / f"{split[:-1]}list0{split[-1]}.txt"
    examples = _examples(list_of_split, numbers, folder)
    if not is_part and len(examples) != COUNTS[split]:
        raise UserError(
            f"{list_of_split} names {len(examples):,} videos, the official list {COUNTS[split]:,}. "
            f"To get it again: {_get_lists(folder)}{_or_a_part(folder)}"
        )
    there = _there(videos, {id.partition("/")[0] for id, _ in examples})
    absent = [id for id, _ in examples if id not in there]
    if absent and not (is_part and there):
        raise MissingResource(
            f"{len(absent):,} of the {len(examples):,} videos of UCF101's split {split} (such as {absent[0]})",
            where=str(videos),
            get=f"{_get_videos(folder)}{_or_a_part(folder) if there else ''}",
        )
    return Ucf101(videos, [(id, label) for id, label in examples if id in there])


def _numbers(file: Path, folder: Path) -> dict[str, int]:
    """Action -> class, counted from 0."""
    lines = [line.split() for line in _lines(file, folder)]
    numbers = {line[1]: int(line[0]) - 1 for line in lines if len(line) == 2 and line[0].isdecimal()}
    if list(numbers.values()) != list(range(CLASSES)) or list(numbers) != sorted(numbers, key=str.lower):
        raise UserError(
            f"{file} does not number {CLASSES} actions from 1, in alphabetical order. "
            f"To get it again: {_get_lists(folder)}"
        )
    return numbers


def _examples(file: Path, numbers: dict[str, int], folder: Path) -> list[tuple[str, int]]:
    """The id and class of each line "action/video.avi"; lists to train on have the class's official number, too."""
    examples = []
    for number, line in enumerate(_lines(file, folder), 1):
        id, *official = line.split()
        label = numbers.get(id.partition("/")[0])
        if label is None or official not in ([], [str(label + 1)]):
            raise UserError(
                f"{file}:{number}: '{line}' does not fit classInd.txt. To get both again: {_get_lists(folder)}"
            )
        examples.append((id, label))
    return examples


def _lines(file: Path, folder: Path) -> list[str]:
    try:
        return [line for line in file.read_text(encoding="ascii").splitlines() if line.strip()]
    except FileNotFoundError:
        raise MissingResource("the official lists of UCF101", where=str(file), get=_get_lists(folder)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error}). To get it again: {_get_lists(folder)}") from None


def _there(videos: Path, actions: set[str]) -> set[str]:
    """The ids of all files in these actions' folders: listing 101 folders is faster than asking for 3,783 files."""
    found = set()
    for action in actions:
        if (videos / action).is_dir():
            found |= {f"{action}/{name}" for name in os.listdir(videos / action)}
    return found


def _get_videos(folder: Path) -> str:
    place = shlex.quote(f"{folder}/")
    return f"curl -LO {URL}/UCF101.rar && mkdir -p {place} && unrar x UCF101.rar {place}"


def _get_lists(folder: Path) -> str:
    archive = "UCF101TrainTestSplits-RecognitionTask.zip"
    return f"curl -LO {URL}/{archive} && unzip -o {archive} -d {shlex.quote(str(folder))}"


def _or_a_part(folder: Path) -> str:
    return f"; or, where this is a part on purpose, type: touch {shlex.quote(str(folder / SUBSET))}"


SPEC = DatasetSpec(
    name="ucf101",
    summary="UCF101, 13,320 videos of 101 actions, by its three official splits",
    labels="ucf-101",
    splits=tuple(COUNTS),
    open=open_ucf101,
    kind="video",
    licence="none stated; for research, with a citation",
    paper="https://arxiv.org/abs/1212.0402",
)
